/** Shows on the interpreter what the model said. */

import { element } from "../dom.js";
import { addPanel } from "./panel.js";

/**
 * @typedef {object} Reply to one picture of the batch; empty where the model was not asked to speak
 * @property {string} reply
 * @property {string} label
 */

const SILENT = "No words, for reply is direct. With generate, the model says what it understood.";

/** @param {LGraphNode} node a FlexEditMaskInterpreter that was just made */
export function addReply(node) {
  const list = element("div", "flexedit-replies");
  list.addEventListener("pointerdown", (event) => {
    if (event.button === 0) event.stopPropagation(); // one selects text; a Vue node would be moved
  });
  addPanel(node, "flexedit_reply", list, (replies) => {
    const isSilent = replies.every(({ reply, label }) => !reply && !label);
    list.replaceChildren(...(isSilent ? [text("flexedit-note", SILENT)] : replies.map(card)));
  });
}

/** @param {Reply} reply */
function card({ reply, label }) {
  const box = element("div", "flexedit-card");
  if (label) box.append(text("flexedit-label", label));
  if (reply) box.append(text("flexedit-words", reply));
  return box;
}

function text(className, textContent) {
  return Object.assign(element("div", className), { textContent });
}
