/** Which picture is drawn on: the one of a connected Load Image, else what the last run saw. */

import { graphsOf, isLinked, urlOf } from "../node.js";

/** @typedef {import("../node.js").File} File */

/**
 * @param {LGraphNode} node
 * @param {File | undefined} lastRun the picture that the node's last run saw
 * @returns {{isConnected: boolean, isChosen: boolean, key: string, url: string | null}} isChosen: by
 *   a person, in a Load Image; the same key for the same picture; no url while it is not known
 */
export function pictureOf(node, lastRun) {
  const slot = node.inputs.findIndex((input) => input.name === "image");
  const source = node.graph && sourceOf(node, slot);
  const name = source && loadedName(source);
  const isConnected = Boolean(source) || isLinked(node, "image");
  return { isConnected, isChosen: Boolean(name), ...known(name ? fileOf(name) : lastRun) };
}

function known(file) {
  const { filename, subfolder = "", type = "output" } = file ?? {};
  if (!filename) return { key: "", url: null };
  const plain = { filename, subfolder, type };
  return { key: JSON.stringify(plain), url: urlOf(plain) };
}

/** The node that an input's picture comes from, past reroutes and out of subgraphs. */
function sourceOf(node, slot) {
  const link = node?.graph.getLink(node.inputs[slot]?.link);
  if (!link) return null;
  if (link.originIsIoNode) return sourceOf(outerNode(node.graph), link.origin_slot);
  const source = node.graph.getNodeById(link.origin_id);
  return source?.type === "Reroute" ? sourceOf(source, 0) : source;
}

/** The one node that stands for a subgraph; none if there are several, with pictures of their own. */
function outerNode(subgraph) {
  const nodes = graphsOf(subgraph.rootGraph)
    .flatMap((graph) => graph.nodes)
    .filter((node) => node.subgraph === subgraph);
  return nodes.length === 1 ? nodes[0] : null;
}

/** The file that a Load Image, or another node with an upload, is set to; none if by an input. */
function loadedName(source) {
  const { required, optional } = source.constructor.nodeData?.input ?? {};
  const [, options] = { ...required, ...optional }.image ?? [];
  if (!options?.image_upload || isLinked(source, "image")) return null;
  return source.widgets?.find((widget) => widget.name === "image")?.value ?? null;
}

/** "folder/name.png [input]" → its file */
function fileOf(name) {
  const [, path, type] = name.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const slash = path.lastIndexOf("/");
  return {
    filename: path.slice(slash + 1),
    subfolder: path.slice(0, Math.max(slash, 0)),
    type: type ?? "input",
  };
}
