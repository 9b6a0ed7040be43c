// One case at a time: look, decide, or draw the mask anew. Every decision is sent at once.

const TINT = [255, 40, 120];
const QUESTION =
  "Would a person scribble this mask for this instruction? Accept it, redraw it, or reject the case.";
const byId = (id) => document.getElementById(id);
const canvas = byId("mask");
const pen = canvas.getContext("2d", { willReadFrequently: true });

let cases = [];
let current = null; // the case that is shown
let shown = 0; // counts what was shown, so that a slow picture of an earlier case is dropped
let base = null; // ImageData: the mask before any stroke
let strokes = []; // {erase, width, points: [[x, y], …]}, or "clear"
let pointer = null; // the pointer that draws, or null
let erasing = false;

// Talking to the server

const pictureUrl = (name) => `/picture/${encodeURIComponent(current.id)}/${name}`;

async function send(decision) {
  const { id } = current;
  let answer;
  try {
    const response = await fetch(`/case/${encodeURIComponent(id)}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(decision),
    });
    answer = await response.json();
  } catch {
    answer = { error: "The review server does not answer. Start it again; nothing was kept now." };
  }
  if (answer.error) {
    say(answer.error, true);
    return null;
  }
  cases = cases.map((one) => (one.id === id ? answer : one));
  if (current.id === id) current = answer;
  describe();
  return answer;
}

function say(text, isError = false) {
  byId("message").textContent = text || QUESTION;
  byId("message").classList.toggle("error", isError);
}

// Which case

function listed() {
  const wanted = byId("filter").value;
  return cases.filter((one) => wanted === "all" || one.review === wanted);
}

/** The case `step` places after the current one in the list, which may have left the list. */
function neighbour(step) {
  const order = cases.map((one) => one.id);
  const here = current ? order.indexOf(current.id) : -1;
  const list = listed().filter((one) => one !== current);
  const after = list.filter((one) => order.indexOf(one.id) > here);
  const before = list.filter((one) => order.indexOf(one.id) < here);
  return step > 0 ? after[0] : before.at(-1);
}

function go(step) {
  const target = neighbour(step);
  if (target) show(target);
  else say(step > 0 ? "This is the last case of the list." : "This is the first case of the list.");
}

async function show(target) {
  if (strokes.length && !confirm("Leave without saving the redrawn mask?")) return;
  stopDrawing();
  say("");
  current = target ?? null;
  byId("case").hidden = !current;
  byId("none").hidden = Boolean(current);
  if (!current) return;
  shown += 1;
  const turn = shown;
  history.replaceState(null, "", `#${encodeURIComponent(current.id)}`);
  byId("overlay").value = "mask";
  byId("note").value = current.note;
  byId("with-subject").hidden = !current.subject;
  for (const name of ["scene", "truth", "subject"]) {
    if (current[name]) byId(name).src = pictureUrl(name);
    else byId(name).removeAttribute("src");
  }
  describe();
  const scene = byId("scene");
  try {
    await scene.decode();
  } catch {
    if (turn === shown) say(`The scene of ${current.id} cannot be shown.`, true);
    return;
  }
  if (turn !== shown) return;
  canvas.width = scene.naturalWidth;
  canvas.height = scene.naturalHeight;
  byId("board").style.setProperty("--aspect", canvas.width / canvas.height);
  for (const picture of [canvas, scene, byId("truth"), byId("subject")]) {
    picture.classList.toggle("pixelated", canvas.width < 300);
  }
  const longest = Math.max(canvas.width, canvas.height);
  byId("width").max = Math.ceil(longest / 3);
  byId("width").value = Math.max(2, Math.round(longest / 14));
  await showOverlay();
}

function describe() {
  const decided = cases.filter((one) => one.review !== "open").length;
  byId("progress").max = cases.length || 1;
  byId("progress").value = decided;
  byId("count").textContent = `${decided} of ${cases.length} decided`;
  if (!current) return;
  byId("title").textContent = current.id;
  byId("instruction").textContent = `“${current.instruction}”`;
  byId("label").textContent = current.label;
  byId("result").textContent = current.result_label;
  byId("operation").textContent = `${current.operation}, ${current.group}-image`;
  byId("kind").textContent = `${current.kind}, turned by ${Math.round(current.orientation)}°`;
  byId("setting").textContent =
    current.setting + (current.subject ? `; subject: ${current.subject_setting}` : "");
  byId("review").textContent = current.review;
  byId("review").className = current.review;
  byId("reopen").disabled = current.review === "open";
}

async function decide(review) {
  const target = neighbour(1);
  const answer = await send({ review, note: byId("note").value });
  if (!answer || review === "open") return;
  if (target) await show(target);
  else say(`${answer.id} is ${review}. It was the last case of the list.`);
}

// The overlay

async function showOverlay() {
  const name = byId("overlay").value;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!name) return;
  const turn = shown;
  const picture = new Image();
  picture.src = pictureUrl(name);
  try {
    await picture.decode();
  } catch {
    say(`The ${name.replace("_", " ")} of ${current.id} cannot be shown.`, true);
    return;
  }
  if (turn !== shown || name !== byId("overlay").value) return;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.set([...TINT, pixels.data[at] > 127 ? 255 : 0], at);
  }
  pen.putImageData(pixels, 0, 0);
}

// Drawing

const isDrawing = () => document.body.classList.contains("drawing");

async function startDrawing() {
  if (isDrawing()) return;
  byId("overlay").value = "mask";
  await showOverlay();
  base = pen.getImageData(0, 0, canvas.width, canvas.height);
  strokes = [];
  setDrawing(true);
  choose(false);
  say("Paint what the mask should cover; then save it.");
}

function stopDrawing() {
  strokes = [];
  pointer = null;
  setDrawing(false);
}

function setDrawing(on) {
  document.body.classList.toggle("drawing", on);
  byId("drawing").hidden = !on;
  byId("looking").hidden = on;
  byId("deciding").hidden = on;
  byId("ring").hidden = true;
}

function choose(eraser) {
  erasing = eraser;
  byId("eraser").setAttribute("aria-pressed", eraser);
  byId("brush").setAttribute("aria-pressed", !eraser);
}

function line(stroke, from, to) {
  pen.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  pen.strokeStyle = `rgb(${TINT})`;
  pen.lineWidth = stroke.width;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
  pen.globalCompositeOperation = "source-over";
}

/** Leaves no half-covered pixels: what is seen is what will be saved. */
function settle() {
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.set([...TINT, pixels.data[at + 3] > 127 ? 255 : 0], at);
  }
  pen.putImageData(pixels, 0, 0);
}

function paintAll() {
  pen.putImageData(base, 0, 0);
  for (const stroke of strokes) {
    if (stroke === "clear") {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      continue;
    }
    stroke.points.forEach((point, at) => line(stroke, stroke.points[Math.max(0, at - 1)], point));
    settle();
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

function moveRing(event) {
  const ring = byId("ring");
  const box = canvas.getBoundingClientRect();
  ring.hidden = !isDrawing();
  ring.style.left = `${event.clientX - box.left}px`;
  ring.style.top = `${event.clientY - box.top}px`;
  const size = (byId("width").value * box.width) / canvas.width;
  ring.style.width = `${size}px`;
  ring.style.height = `${size}px`;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!isDrawing() || pointer !== null || event.button !== 0) return;
  event.preventDefault();
  pointer = event.pointerId;
  canvas.setPointerCapture(pointer);
  const stroke = { erase: erasing, width: Number(byId("width").value), points: [place(event)] };
  strokes.push(stroke);
  line(stroke, stroke.points[0], stroke.points[0]);
});

canvas.addEventListener("pointermove", (event) => {
  moveRing(event);
  if (event.pointerId !== pointer) return;
  const stroke = strokes.at(-1);
  const moves = event.getCoalescedEvents?.() ?? [];
  for (const move of moves.length ? moves : [event]) {
    stroke.points.push(place(move));
    line(stroke, stroke.points.at(-2), stroke.points.at(-1));
  }
});

for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    settle();
  });
}

canvas.addEventListener("pointerleave", () => {
  byId("ring").hidden = true;
});

function undo() {
  if (pointer !== null) return;
  strokes.pop();
  paintAll();
}

function clear() {
  strokes.push("clear");
  paintAll();
}

function cancel() {
  stopDrawing();
  say("");
  showOverlay();
}

function maskAsPng() {
  const mask = document.createElement("canvas");
  mask.width = canvas.width;
  mask.height = canvas.height;
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = pixels.data[at + 3] > 127 ? 255 : 0;
    pixels.data.set([value, value, value, 255], at);
  }
  mask.getContext("2d").putImageData(pixels, 0, 0);
  return mask.toDataURL("image/png");
}

async function save() {
  const answer = await send({ mask: maskAsPng(), note: byId("note").value });
  if (!answer) return;
  stopDrawing();
  await showOverlay();
  say("The redrawn mask is saved; the old one is kept beside it.");
}

// Buttons and keys

const actions = {
  previous: () => go(-1),
  next: () => go(1),
  accept: () => decide("accepted"),
  reject: () => decide("rejected"),
  reopen: () => decide("open"),
  redraw: startDrawing,
  brush: () => choose(false),
  eraser: () => choose(true),
  undo,
  clear,
  save,
  cancel,
};
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);

const lookingKeys = {
  ArrowLeft: actions.previous,
  ArrowRight: actions.next,
  a: actions.accept,
  x: actions.reject,
  r: actions.redraw,
  o: actions.reopen,
  m() {
    const { options } = byId("overlay");
    options.selectedIndex = (options.selectedIndex + 1) % options.length;
    showOverlay();
  },
};
const drawingKeys = {
  b: actions.brush,
  e: actions.eraser,
  z: undo,
  s: save,
  Escape: cancel,
  "[": () => byId("width").stepDown(),
  "]": () => byId("width").stepUp(),
};

document.addEventListener("keydown", (event) => {
  if (!current || event.altKey || event.target.closest("textarea, select")) return;
  const undoing = event.key === "z" && isDrawing();
  if ((event.ctrlKey || event.metaKey) && !undoing) return;
  const keys = isDrawing() ? drawingKeys : lookingKeys;
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

byId("overlay").addEventListener("change", showOverlay);
byId("note").addEventListener("change", () => send({ note: byId("note").value }));
byId("filter").addEventListener("change", () => {
  const list = listed();
  if (!list.includes(current)) show(list[0]);
});
addEventListener("beforeunload", (event) => {
  if (strokes.length) event.preventDefault();
});

cases = await (await fetch("/cases")).json();
const wanted = decodeURIComponent(location.hash.slice(1));
describe();
await show(
  cases.find((one) => one.id === wanted) ?? cases.find((one) => one.review === "open") ?? cases[0],
);
