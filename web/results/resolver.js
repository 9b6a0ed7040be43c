/** Shows on the resolver what the scribble may mean; a click there picks its candidate. */

import { asOneChange, chain, isLinked } from "../node.js";
import { addPanel } from "./panel.js";
import { Resolution } from "./resolution.js";

const MIN_WIDTH = 300;
const ANSWERED = "flexedit_answered"; // the node's property: for which question one has picked

/** @param {LGraphNode} node a FlexEditResolveMask that was just made */
export function addResolution(node) {
  const widget = node.widgets.find(({ name }) => name === "candidate");
  const resolution = new Resolution((candidate) => {
    asOneChange(() => {
      widget.value = candidate;
      widget.callback?.(candidate);
    });
  });
  const mark = () => {
    resolution.mark(widget.value, isLinked(node, "candidate"), node.properties[ANSWERED]);
  };
  chain(widget, "callback", () => {
    node.properties[ANSWERED] = resolution.question;
    mark();
  });
  chain(node, "onConfigure", mark);
  chain(node, "onConnectionsChange", mark);
  addPanel(node, "flexedit_resolution", resolution.root, ([resolved]) => {
    mark();
    resolution.show(resolved);
  });
  node.setSize([Math.max(node.size[0], MIN_WIDTH), node.size[1]]);
}
