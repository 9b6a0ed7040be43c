// Draws the mask anew, with brush, eraser and by moving it; what is saved goes with the form.

const TINT = [255, 40, 120];
const canvas = document.getElementById("mask");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const form = document.getElementById("case");
const told = document.querySelector("[role=status]");
const { tool, width, mask, note } = form.elements;

const before = []; // ImageData: the mask before each stroke
let start = null; // where the stroke began, while there is one
let last = null; // where it has come to

const pixels = () => pen.getImageData(0, 0, canvas.width, canvas.height);

/** Leaves no half-covered pixels: what is seen is what will be saved. */
function settle(channel = 3) {
  const image = pixels();
  for (let at = 0; at < image.data.length; at += 4) {
    image.data.set([...TINT, image.data[at + channel] > 127 ? 255 : 0], at);
  }
  pen.putImageData(image, 0, 0);
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

function draw(to) {
  if (tool.value === "move") {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.putImageData(before.at(-1), Math.round(to[0] - start[0]), Math.round(to[1] - start[1]));
  } else {
    pen.globalCompositeOperation = tool.value === "eraser" ? "destination-out" : "source-over";
    pen.strokeStyle = `rgb(${TINT})`;
    pen.lineWidth = width.value;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...to);
    pen.stroke();
  }
  last = to;
}

canvas.addEventListener("pointerdown", (event) => {
  if (start || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  before.push(pixels());
  start = last = place(event);
  draw(start);
});
canvas.addEventListener("pointermove", (event) => start && draw(place(event)));
canvas.addEventListener("lostpointercapture", () => {
  start = null;
  settle();
});

const actions = {
  undo: () => before.length && !start && pen.putImageData(before.pop(), 0, 0),
  clear() {
    before.push(pixels());
    pen.clearRect(0, 0, canvas.width, canvas.height);
  },
  save() {
    if (!pixels().data.some((value, at) => at % 4 === 3 && value)) {
      told.textContent = "The redrawn mask is empty. Paint what you mean, then save again.";
      told.classList.add("error");
      return;
    }
    before.length = 0;
    for (const [mode, color] of [["source-in", "white"], ["destination-over", "black"]]) {
      pen.globalCompositeOperation = mode;
      pen.fillStyle = color;
      pen.fillRect(0, 0, canvas.width, canvas.height);
    }
    mask.value = canvas.toDataURL();
    mask.disabled = false;
    form.submit();
  },
};
for (const [id, action] of Object.entries(actions)) {
  document.getElementById(id).addEventListener("click", action);
}

document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // Caps Lock
  const commands = (event.ctrlKey || event.metaKey) && key !== "z";
  if (event.target === note || event.altKey || commands) return;
  if (key.startsWith("Arrow") && event.target.matches("[type=range], [type=radio]")) return;
  const button = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});
addEventListener("beforeunload", (event) => before.length && event.preventDefault());

const given = new Image();
given.src = canvas.dataset.source;
await given.decode();
canvas.width = given.naturalWidth;
canvas.height = given.naturalHeight;
document.getElementById("board").style.setProperty("--aspect", canvas.width / canvas.height);
document.body.classList.toggle("small", canvas.width < 300);
const longest = Math.max(canvas.width, canvas.height);
width.max = Math.ceil(longest / 3);
width.value = Math.max(2, Math.round(longest / 14));
pen.drawImage(given, 0, 0);
settle(0); // white is red, too
canvas.classList.add("ready");
