/** A part of a node that shows what a run found; not there before a run. */

import { app } from "../../../scripts/app.js";
import { element } from "../dom.js";
import { chain, hide, lastOutput, resize, takePlace } from "../node.js";

const MARGIN = 10; // CSS pixels that the classic rendering leaves around a widget

/**
 * @template Result
 * @param {LGraphNode} node
 * @param {string} key of what the node's runs send to the page
 * @param {HTMLElement} content shows it
 * @param {(results: Result[]) => void} show fills the content
 */
export function addPanel(node, key, content, show) {
  const root = element("div", "flexedit-panel");
  root.dataset.key = key;
  root.append(content);
  let height = 0;
  const widget = node.addDOMWidget(key, key, root, {
    serialize: false, // it is not an input of the node
    hideOnZoom: false,
    getMinHeight: () => height,
    getMaxHeight: () => height,
  });
  widget.serialize = false; // and no part of a saved workflow

  const reveal = (results) => {
    root.hidden = !results?.length;
    hide(widget, root.hidden);
    if (!root.hidden) show(results);
    fit();
  };
  let ownHeight = NaN; // of the node, as we set it; a person may set another
  const fit = () => {
    if (root.closest(".lg-node") || !content.offsetHeight) return; // a Vue node grows by itself
    height = content.offsetHeight + 2 * MARGIN;
    app.canvas.setDirty(true, true);
    const [, least] = node.computeSize();
    const isOurs = node.size[1] === ownHeight;
    if (least === node.size[1] || (least < node.size[1] && !isOurs)) return;
    ownHeight = least;
    resize(node, root, [node.size[0], least]);
  };
  new ResizeObserver(fit).observe(content);

  chain(node, "onExecuted", (output) => reveal(output?.[key]));
  chain(node, "onConfigure", () => {
    reveal(lastOutput(node, key)); // after undo, or back in this tab
    requestAnimationFrame(() => takePlace(node, root));
  });
  reveal(undefined);
}
