/** The stroke that is being drawn. */

import { LINES, SHAPES } from "./strokes.js";

/** @typedef {import("./strokes.js").Stroke} Stroke */
/** @typedef {import("./strokes.js").Point} Point */

const SMALLEST = 3; // CSS pixels: a smaller shape was a click

/**
 * @param {Omit<Stroke, "points">} settings
 * @param {Point} point
 * @returns {Stroke}
 */
export function begin(settings, point) {
  return { ...settings, points: SHAPES.includes(settings.tool) ? [point, point] : [point] };
}

/**
 * @param {Stroke} stroke
 * @param {Point[]} added where the pointer has been since
 * @param {boolean} regular a straight line, a shape as wide as high
 * @param {[number, number]} size of the picture, pixels
 * @returns {Stroke}
 */
export function extend(stroke, added, regular, size) {
  const [start, end] = [stroke.points[0], added.at(-1)];
  let points = [...stroke.points, ...added];
  if (SHAPES.includes(stroke.tool)) points = [start, regular ? even(start, end, size) : end];
  else if (regular && LINES.includes(stroke.tool)) points = [start, end];
  return { ...stroke, points };
}

/** The corner that makes a box as wide as high, in pixels. */
function even([x0, y0], [x1, y1], [width, height]) {
  const side = Math.max(Math.abs(x1 - x0) * width, Math.abs(y1 - y0) * height);
  return [x0 + (Math.sign(x1 - x0) * side) / width, y0 + (Math.sign(y1 - y0) * side) / height];
}

/**
 * @param {Stroke} stroke
 * @param {number} width of the picture on the screen, CSS pixels
 * @param {number} height
 * @returns {boolean} whether it was meant to be drawn
 */
export function isMeant({ tool, points }, width, height) {
  if (LINES.includes(tool)) return true;
  if (tool === "lasso") return points.length >= 3;
  const [[x0, y0], [x1, y1]] = points;
  return Math.min(Math.abs(x1 - x0) * width, Math.abs(y1 - y0) * height) >= SMALLEST;
}

/** @returns {boolean} whether the pointer draws a line of its own width */
export function isLine({ tool, open }) {
  return LINES.includes(tool) || (tool === "lasso" && open);
}
