// One case at a time: look, decide, or draw its mask anew. Every decision is sent at once.

const TINT = [255, 40, 120];
const byId = (id) => document.getElementById(id);
const cases = JSON.parse(byId("cases").textContent);
const canvas = byId("mask");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const tools = byId("tools").elements;

let index = 0; // of the case that is shown
let before = []; // ImageData: the mask before each stroke since it was saved
let start = null; // where the stroke began, while there is one
let last = null; // where it has come to

const pictureUrl = (name) => `/picture/${encodeURIComponent(cases[index].id)}/${name}`;

function say(text, isError = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("error", isError);
}

async function send(decision) {
  const at = index;
  const response = await fetch(`/case/${encodeURIComponent(cases[at].id)}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(decision),
  }).catch(() => null);
  const answer = (await response?.json()) ?? { error: "The review server does not answer." };
  if (answer.error) {
    say(answer.error, true);
    return false;
  }
  cases[at] = answer;
  describe();
  return true;
}

// Which case

function describe() {
  const one = cases[index];
  const facts = {
    title: one.id,
    instruction: `“${one.instruction}”`,
    label: one.label,
    result: one.result_label,
    operation: `${one.operation}, ${one.group}-image`,
    kind: `${one.kind}, turned by ${Math.round(one.orientation)}°`,
    setting: one.setting + (one.subject ? `; subject: ${one.subject_setting}` : ""),
    review: one.review,
    count: `${cases.filter(({ review }) => review !== "open").length} of ${cases.length} decided`,
  };
  for (const [id, text] of Object.entries(facts)) byId(id).textContent = text;
}

async function show(wanted) {
  if (wanted < 0 || wanted >= cases.length) return say("There is no other case.");
  if (before.length && !confirm("Leave without saving the redrawn mask?")) return;
  index = wanted;
  const { id, note, subject } = cases[index];
  before = [];
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  say("Would a person scribble this mask for this instruction? Accept, redraw or reject it.");
  describe();
  byId("note").value = note;
  byId("subject").parentElement.hidden = !subject;
  for (const name of ["scene", "truth", ...(subject ? ["subject"] : [])]) {
    byId(name).src = pictureUrl(name);
  }
  const mask = new Image();
  mask.src = pictureUrl("mask");
  try {
    await mask.decode();
  } catch {
    return say(`The mask of ${id} cannot be shown.`, true);
  }
  if (cases[index].id !== id) return; // a slow picture of an earlier case
  const { naturalWidth: width, naturalHeight: height } = mask;
  Object.assign(canvas, { width, height });
  byId("board").style.setProperty("--aspect", width / height);
  for (const picture of document.querySelectorAll("canvas, img")) {
    picture.classList.toggle("pixelated", width < 300);
  }
  tools.width.max = Math.ceil(Math.max(width, height) / 3);
  tools.width.value = Math.max(2, Math.max(width, height) / 14);
  pen.drawImage(mask, 0, 0);
  settle(([red]) => red > 127);
}

async function decide(review) {
  if ((await send({ review, note: byId("note").value })) && review !== "open") show(index + 1);
}

// Drawing

/** Leaves no half-covered pixels: what is seen is what will be saved. */
function settle(covers = (pixel) => pixel[3] > 127) {
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.set([...TINT, covers(pixels.data.subarray(at, at + 4)) ? 255 : 0], at);
  }
  pen.putImageData(pixels, 0, 0);
}

const remember = () => before.push(pen.getImageData(0, 0, canvas.width, canvas.height));

function place(event) {
  const box = canvas.getBoundingClientRect();
  const { width, height } = canvas;
  return [
    ((event.clientX - box.left) * width) / box.width,
    ((event.clientY - box.top) * height) / box.height,
  ];
}

function draw(to) {
  if (tools.tool.value === "move") {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.putImageData(before.at(-1), Math.round(to[0] - start[0]), Math.round(to[1] - start[1]));
  } else {
    pen.globalCompositeOperation = tools.tool.value === "eraser" ? "destination-out" : "source-over";
    pen.strokeStyle = `rgb(${TINT})`;
    pen.lineWidth = tools.width.value;
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
  remember();
  start = last = place(event);
  draw(start);
});
canvas.addEventListener("pointermove", (event) => start && draw(place(event)));
canvas.addEventListener("lostpointercapture", () => {
  start = null;
  pen.globalCompositeOperation = "source-over";
  settle();
});

function undo() {
  if (before.length && !start) pen.putImageData(before.pop(), 0, 0);
}

function clear() {
  remember();
  pen.clearRect(0, 0, canvas.width, canvas.height);
}

async function save() {
  const mask = document.createElement("canvas");
  Object.assign(mask, { width: canvas.width, height: canvas.height });
  const paper = mask.getContext("2d");
  paper.drawImage(canvas, 0, 0);
  for (const [mode, color] of [["source-in", "white"], ["destination-over", "black"]]) {
    paper.globalCompositeOperation = mode;
    paper.fillStyle = color;
    paper.fillRect(0, 0, mask.width, mask.height);
  }
  if (await send({ mask: mask.toDataURL(), note: byId("note").value })) {
    before = [];
    say("The redrawn mask is saved; the old one is kept beside it.");
  }
}

// Buttons and keys

const actions = {
  previous: () => show(index - 1),
  next: () => show(index + 1),
  accepted: () => decide("accepted"),
  rejected: () => decide("rejected"),
  open: () => decide("open"),
  undo,
  clear,
  save,
};
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);

const take = (tool) => () => (tools.tool.value = tool);
const keys = {
  ArrowLeft: actions.previous,
  ArrowRight: actions.next,
  a: actions.accepted,
  x: actions.rejected,
  o: actions.open,
  b: take("brush"),
  e: take("eraser"),
  v: take("move"),
  z: undo,
  s: save,
  "[": () => tools.width.stepDown(),
  "]": () => tools.width.stepUp(),
};
document.addEventListener("keydown", (event) => {
  const isUndo = event.key === "z";
  if (event.target.id === "note" || event.altKey || (!isUndo && event.ctrlKey)) return;
  const action = keys[event.key];
  if (action) event.preventDefault();
  action?.();
});
byId("note").addEventListener("change", () => send({ note: byId("note").value }));
addEventListener("beforeunload", (event) => before.length && event.preventDefault());

const named = cases.findIndex((one) => `#${encodeURIComponent(one.id)}` === location.hash);
show(Math.max(0, named >= 0 ? named : cases.findIndex(({ review }) => review === "open")));
