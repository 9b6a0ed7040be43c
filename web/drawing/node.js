/** Puts a drawing on a node, in place of the text of its strokes. */

import { app } from "../../../scripts/app.js";
import {
  asOneChange,
  chain,
  graphsOf,
  hide,
  hideRows,
  isLinked,
  lastOutput,
  resize,
  takePlace,
} from "../node.js";
import { Drawing } from "./drawing.js";
import { pictureOf } from "./picture.js";

const DRAWN = "drawn";
const NUMBERS = new Set(
  "x y shape_width shape_height rotation stroke seed control_after_generate".split(" "),
);
const SIZES = new Set(["image_width", "image_height"]); // a picture has its own
const MIN_WIDTH = 360;
const MIN_HEIGHT = 240;
const LOOK_AGAIN = 250; // milliseconds

const drawings = new WeakMap();

/** @param {LGraphNode} node a FlexEditFreeShapeMask that was just made */
export function addDrawing(node) {
  drawings.set(node, new NodeDrawing(node));
}

/** No event tells that another node shows another picture. */
export function keepLooking() {
  setInterval(() => {
    const nodes = graphsOf(rootGraph()).flatMap((graph) => graph.nodes);
    for (const node of nodes) drawings.get(node)?.look();
  }, LOOK_AGAIN);
}

/** @param {{node_id: string, picture: object}} message what a run found at the node's image */
export function showRun({ node_id, picture }) {
  drawings.get(nodeOf(node_id))?.showRun(picture);
}

const rootGraph = () => app.rootGraph ?? app.graph;

/** "5:3" is node 3 in the subgraph of node 5. */
function nodeOf(path) {
  let graph = rootGraph();
  let node = null;
  for (const id of path.split(":")) {
    node = graph?.getNodeById(Number(id));
    graph = node?.subgraph;
  }
  return node;
}

class NodeDrawing {
  #node;
  #kind;
  #widget;
  #drawing;
  #lastRun;
  #shownKey = "";
  #image = null;
  #failed = false;
  /** Of the node, as we set it; a person may set another. */
  #height = NaN;

  constructor(node) {
    this.#node = node;
    this.#kind = node.widgets.find((widget) => widget.name === "kind");
    this.#drawing = new Drawing((text) => asOneChange(() => (this.#widget.value = text)));
    this.#replaceText();
    chain(this.#kind, "callback", () => this.#arrange(true));
    chain(node, "onConfigure", () => this.#configured());
    chain(node, "onConnectionsChange", (...change) => this.#connected(change.at(-1)));
    chain(node, "onExecuted", (output) => this.showRun(output?.flexedit_picture?.[0]));
    const { root } = this.#drawing;
    root.addEventListener("focusin", () => app.canvas.selectNode(node));
    root.addEventListener("pointerenter", () => this.#tryAgain());
    new ResizeObserver(() => this.look()).observe(root); // as soon as a Vue node has its row
    this.#arrange(true);
  }

  showRun(picture) {
    if (!picture) return;
    this.#lastRun = picture;
    this.look();
  }

  /** The widget keeps its place and name, so that saved workflows and the API stay as they are. */
  #replaceText() {
    const { widgets } = this.#node;
    const index = widgets.findIndex((widget) => widget.name === "strokes");
    const [text] = widgets.splice(index, 1);
    this.#drawing.text = text.value ?? "";
    this.#widget = this.#node.addDOMWidget("strokes", "flexedit_drawing", this.#drawing.root, {
      getValue: () => this.#drawing.text,
      setValue: (value) => (this.#drawing.text = String(value ?? "")),
      getMinHeight: () => MIN_HEIGHT,
      hideOnZoom: false,
    });
    this.#widget.label = text.label;
    this.#drawing.root.dataset.key = "strokes";
    widgets.splice(index, 0, widgets.pop());
  }

  /** A new seed for each run, which a drawing hides, would make all that follows run again. */
  #keepSeed() {
    const after = this.#node.widgets.find((widget) => widget.name === "control_after_generate");
    if (after) after.value = "fixed";
  }

  #configured() {
    this.#lastRun ??= lastOutput(this.#node, "flexedit_picture")?.[0];
    this.#arrange(false);
    requestAnimationFrame(() => this.look()); // by then a Vue node has its row
  }

  #connected(slot) {
    if (slot?.name === "image") this.#lastRun = undefined;
    this.#arrange(false);
  }

  /** Shows the drawing or the numbers, whichever the kind asks for. */
  #arrange(resizes) {
    const node = this.#node;
    const { root } = this.#drawing;
    for (const widget of node.widgets) hide(widget, this.#isMoot(widget.name));
    if (this.#isMoot("seed")) this.#keepSeed();
    root.hidden = this.#widget.hidden;
    root.inert = isLinked(node, "strokes");
    if (resizes) {
      const [width, height] = node.computeSize();
      this.#resize(Math.max(node.size[0], width, root.hidden ? 0 : MIN_WIDTH), height);
    }
    this.look();
  }

  /** Whether the kind makes no use of a widget; of all, where another node decides the kind. */
  #isMoot(name) {
    if (isLinked(this.#node, "kind") || isLinked(this.#node, name)) return false;
    if (this.#kind.value !== DRAWN) return name === this.#widget.name;
    return NUMBERS.has(name) || (SIZES.has(name) && isLinked(this.#node, "image"));
  }

  /** Looks which picture is connected now, and how large the drawing is on the screen. */
  look() {
    takePlace(this.#node, this.#drawing.root);
    hideRows(this.#node, this.#drawing.root, (name) => this.#isMoot(name));
    if (!this.#drawing.isShown) return;
    const { isConnected, isChosen, key, url } = pictureOf(this.#node, this.#lastRun);
    if (key !== this.#shownKey) {
      this.#drawing.picture = isChosen ? key : "";
      this.#load(key, url);
    }
    this.#drawing.showPicture(this.#image, this.#size, this.#hint(isConnected, url));
    this.#drawing.sharpen();
    this.#fit();
  }

  #resize(width, height) {
    this.#height = height;
    resize(this.#node, this.#drawing.root, [width, height]);
  }

  /**
   * Makes the node as high as its widgets need, and as the picture does unless a person chose
   * another height; Vue nodes do so alone.
   */
  #fit() {
    const { size } = this.#node;
    if (this.#drawing.root.closest(".lg-node")) return;
    const [, least] = this.#node.computeSize();
    const missing = size[1] === this.#height ? this.#drawing.missingHeight : 0;
    const wanted = Math.max(size[1] + missing, least);
    if (wanted === size[1]) return;
    this.#resize(size[0], wanted);
  }

  get #size() {
    if (this.#image) return [this.#image.naturalWidth, this.#image.naturalHeight];
    const value = (name) => this.#node.widgets.find((widget) => widget.name === name).value;
    return [value("image_width"), value("image_height")];
  }

  #hint(isConnected, url) {
    if (isLinked(this.#node, "strokes")) return "The strokes come from another node.";
    if (this.#failed) return "The picture cannot be loaded.";
    if (isConnected && !url) return "Run once to see the picture here.";
    if (isLinked(this.#node, "kind")) return "The kind comes from another node.";
    return "";
  }

  /** Meanwhile a picture that was missing may have been uploaded. */
  #tryAgain() {
    if (this.#failed) this.#shownKey = "";
  }

  async #load(key, url) {
    this.#shownKey = key;
    this.#failed = false;
    if (!url) {
      this.#image = null;
      return;
    }
    const image = Object.assign(new Image(), { src: url });
    const loaded = await image.decode().then(
      () => true,
      () => false,
    );
    if (key !== this.#shownKey) return; // another one was chosen meanwhile
    this.#image = loaded ? image : null;
    this.#failed = !loaded;
    this.look();
  }
}
