/**
 * The tools above the picture and the sizes below it.
 *
 * All of them are inputs, as the surface is: ComfyUI leaves the keys of an input alone.
 */

import { element } from "../dom.js";
import { icon } from "./icons.js";
import { SHAPES, TOOLS } from "./strokes.js";

const TITLES = {
  brush: "Brush (B)",
  lasso: "Lasso (L)",
  circle: "Circle (C)",
  rectangle: "Rectangle (R)",
  triangle: "Triangle (T)",
  eraser: "Eraser (E)",
};
const MIN_WIDTH = 0.004;
const MAX_WIDTH = 0.5;

let count = 0; // radio buttons of one name are one choice in the whole page

export class Toolbar {
  #tools = {};
  #fill;
  #undo;
  #redo;
  #clear;
  #width;
  #zoom;

  /**
   * @param {(name: string, ...details: unknown[]) => void} command what a button does
   */
  constructor(command) {
    const group = `flexedit-tool-${count++}`;
    const tools = element("div", "flexedit-group");
    tools.setAttribute("role", "radiogroup");
    tools.setAttribute("aria-label", "Tool");
    for (const tool of TOOLS) {
      const { label, input } = button("radio", tool, TITLES[tool]);
      input.name = group;
      input.addEventListener("change", () => command("tool", tool));
      tools.append(label);
      this.#tools[tool] = input;
    }
    this.#fill = button("checkbox", "fill", "Fill what is drawn around (F)").input;
    this.#fill.addEventListener("change", () => command("toggleFill"));
    this.#undo = button("button", "undo", "Undo (Ctrl+Z)").input;
    this.#undo.addEventListener("click", () => command("undo"));
    this.#redo = button("button", "redo", "Redo (Ctrl+Shift+Z)").input;
    this.#redo.addEventListener("click", () => command("redo"));
    this.#clear = button("button", "clear", "Clear (Del)").input;
    this.#clear.addEventListener("click", () => command("clear"));

    this.#width = element("input", "flexedit-width");
    Object.assign(this.#width, { type: "range", min: 0, max: 1, step: "any" });
    this.#width.title = "How thick the line is ([ and ])";
    this.#width.setAttribute("aria-label", this.#width.title);
    this.#width.addEventListener("input", () => command("width", toWidth(this.#width.value)));
    this.#width.addEventListener("change", () => command("showBrush", null));
    const zoomOut = button("button", "minus", "Zoom out (-)");
    zoomOut.input.addEventListener("click", () => command("zoom", 1 / 1.5));
    const zoomIn = button("button", "plus", "Zoom in (+)");
    zoomIn.input.addEventListener("click", () => command("zoom", 1.5));
    this.#zoom = element("input", "flexedit-zoom");
    Object.assign(this.#zoom, { type: "button", title: "Show the whole picture (0)" });
    this.#zoom.addEventListener("click", () => command("fit"));

    this.top = element("div", "flexedit-bar");
    const edits = element("div", "flexedit-group");
    edits.append(...[this.#undo, this.#redo, this.#clear].map((input) => input.parentElement));
    this.top.append(tools, this.#fill.parentElement, edits);
    this.bottom = element("div", "flexedit-bar");
    const zooms = element("div", "flexedit-group");
    zooms.append(zoomOut.label, this.#zoom, zoomIn.label);
    this.bottom.append(this.#width, zooms);
  }

  /** Shows what is chosen and what can be done. */
  show({ tool, open, width, zoom, canUndo, canRedo, canClear }) {
    this.#tools[tool].checked = true;
    for (const shape of [...SHAPES, "lasso"]) {
      this.#tools[shape].parentElement.classList.toggle("flexedit-solid", !open[shape]);
    }
    this.#fill.checked = !open[tool];
    this.#undo.disabled = !canUndo;
    this.#redo.disabled = !canRedo;
    this.#clear.disabled = !canClear;
    if (Math.abs(toWidth(this.#width.value) - width) > 1e-6) this.#width.value = toSlider(width);
    this.#zoom.value = `${Math.round(zoom * 100)} %`;
  }
}

/** The slider is finer for thin lines. */
const toWidth = (slider) => MIN_WIDTH * (MAX_WIDTH / MIN_WIDTH) ** Number(slider);
const toSlider = (width) => Math.log(width / MIN_WIDTH) / Math.log(MAX_WIDTH / MIN_WIDTH);

export function clampWidth(width) {
  return Math.min(Math.max(width, MIN_WIDTH), MAX_WIDTH);
}

/** An input with an icon under it. */
function button(type, name, title) {
  const label = element("label", `flexedit-button flexedit-${name}`);
  const input = Object.assign(document.createElement("input"), { type });
  label.title = title;
  input.setAttribute("aria-label", title);
  label.append(input, icon(name));
  return { label, input };
}
