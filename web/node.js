/** What all our widgets ask of a node. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** @typedef {{filename: string, subfolder: string, type: string}} File on the server */

/** Calls `then` after whatever an object of ours does already. */
export function chain(object, name, then) {
  const first = object[name];
  object[name] = function (...details) {
    const result = first?.apply(this, details);
    then(...details);
    return result;
  };
}

/** Hides a widget from the classic canvas, which reserves room for hidden ones; see flexedit.css. */
export function hide(widget, isHidden) {
  widget.hidden = isHidden;
  if (isHidden) widget.computeSize = () => [0, -4];
  else delete widget.computeSize;
  app.canvas?.setDirty(true, true);
}

/** @returns {boolean} whether something is connected to an input */
export function isLinked(node, name) {
  return node.inputs?.find((input) => input.name === name)?.link != null;
}

/** @returns {LGraph[]} a workflow's graph and those of its subgraphs */
export function graphsOf(rootGraph) {
  return [rootGraph, ...rootGraph.subgraphs.values()];
}

/**
 * Hides the rows of a Vue node's widgets, as `hide` does in the classic rendering; see
 * flexedit.css.
 *
 * @param {LGraphNode} node
 * @param {HTMLElement} inside an element of one of its widgets, perhaps promoted to another node
 * @param {(name: string) => boolean} isHidden
 */
export function hideRows(node, inside, isHidden) {
  const vueNode = inside.closest(".lg-node");
  const isOwn = app.canvas?.graph === node.graph && vueNode?.dataset.nodeId === String(node.id);
  if (!isOwn) return;
  for (const slot of vueNode.querySelectorAll(".lg-node-widget [data-slot-key]")) {
    const [index] = slot.dataset.slotKey.match(/\d+$/); // of its input
    const name = node.inputs[index]?.widget?.name;
    slot.closest(".lg-node-widget").toggleAttribute("data-flexedit-hidden", isHidden(name));
  }
}

/**
 * Gives a node a size in either rendering.
 *
 * @param {LGraphNode} node
 * @param {HTMLElement} inside an element of one of its widgets
 * @param {[number, number]} size width, height
 */
export function resize(node, inside, size) {
  node.setSize(size);
  const height = `${size[1]}px`; // a Vue node reads the size only once, and grows by itself
  inside.closest(".lg-node")?.style.setProperty("--node-height", height);
  app.canvas?.setDirty(true, true);
}

/**
 * Puts a widget's element into its row. A Vue node that follows another of the same id, as after
 * undo, still shows the other's.
 *
 * @param {LGraphNode} node
 * @param {HTMLElement} root with the data-key that the other's element has
 */
export function takePlace(node, root) {
  if (root.isConnected || app.canvas?.graph !== node.graph) return;
  const other = `.lg-node[data-node-id="${node.id}"] [data-key="${root.dataset.key}"]`;
  document.querySelector(other)?.replaceWith(root);
}

/** Makes a change that ComfyUI's own undo knows as one step. */
export function asOneChange(change) {
  app.canvas.emitBeforeChange();
  try {
    change();
  } finally {
    app.canvas.emitAfterChange();
  }
}

/** @returns {unknown[] | undefined} what the node's last run sent to the page under this key */
export function lastOutput(node, key) {
  const isInner = node.graph && node.graph !== node.graph.rootGraph;
  return app.nodeOutputs?.[isInner ? `${node.graph.id}:${node.id}` : String(node.id)]?.[key];
}

/**
 * @param {File} file
 * @returns {string} where the page finds it, whatever the browser has kept of that name
 */
export function urlOf({ filename, subfolder, type }) {
  const query = new URLSearchParams({ filename, subfolder, type });
  return api.apiURL(`/view?${query}${app.getRandParam()}`);
}
