/** Shows on the interpreter what the model said. */

import { element } from "../dom.js";
import { captureWheel } from "../graph.js";
import { addPanel } from "./panel.js";

/**
 * @typedef {object} Reply to one picture of the batch; empty where the model was not asked to speak
 * @property {string} reply
 * @property {string} label
 * @property {string} [hint] of the first: what keeps this run from going well
 */

const SILENT =
  "No words, for the reply mode direct gives none. With generate, the model says what it understood.";

/** @param {LGraphNode} node a FlexEditMaskInterpreter that was just made */
export function addReply(node) {
  const list = element("div", "flexedit-replies");
  list.tabIndex = 0; // so that the keyboard can scroll it
  list.role = "status";
  captureWheel(list, true);
  list.addEventListener("pointerdown", (event) => {
    if (event.button === 0) event.stopPropagation(); // one selects text; a Vue node would be moved
  });
  addPanel(node, "flexedit_reply", list, (replies) => {
    const isSilent = replies.every(({ reply, label }) => !reply && !label);
    const said = isSilent ? [text("flexedit-note", SILENT)] : replies.map(card);
    const hints = replies.filter(({ hint }) => hint).map(({ hint }) => text("flexedit-hint", hint));
    list.replaceChildren(...said, ...hints);
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
