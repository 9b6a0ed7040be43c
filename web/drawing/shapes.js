/** Paints strokes, with the outlines that flexedit/masks gives them. */

import { SHAPES } from "./strokes.js";

/** @typedef {import("./strokes.js").Stroke} Stroke */

const THINNEST = Math.SQRT2; // pixels of the picture

/** How wide a stroke's line is, in pixels of the picture. */
export function lineWidth(stroke, width, height) {
  return Math.max(stroke.width * Math.min(width, height), THINNEST);
}

/**
 * Paints a stroke in the context's fill and stroke style; an eraser rubs out.
 *
 * @param {CanvasRenderingContext2D} context scaled so that a unit is a pixel of the picture
 * @param {Stroke} stroke
 * @param {number} width of the picture, pixels
 * @param {number} height
 */
export function paint(context, stroke, width, height) {
  context.save();
  if (stroke.tool === "eraser") context.globalCompositeOperation = "destination-out";
  if (SHAPES.includes(stroke.tool)) context.fill(shape(stroke, width, height), "evenodd");
  else paintPath(context, stroke, width, height);
  context.restore();
}

function paintPath(context, stroke, width, height) {
  const isLasso = stroke.tool === "lasso";
  const path = new Path2D();
  for (const [x, y] of stroke.points) path.lineTo(x * width, y * height);
  if (isLasso) path.closePath();
  if (!stroke.open) context.fill(path, "nonzero");
  if (stroke.open || !isLasso) {
    context.lineWidth = lineWidth(stroke, width, height);
    context.lineJoin = context.lineCap = "round";
    context.stroke(path);
    const [x, y] = stroke.points[0]; // a path of one point has no line, but shows
    context.beginPath();
    context.arc(x * width, y * height, context.lineWidth / 2, 0, 2 * Math.PI);
    context.fill();
  }
}

function shape(stroke, width, height) {
  const [[x0, y0], [x1, y1]] = stroke.points;
  const a = Math.max(Math.abs(x1 - x0) * width, 1) / 2;
  const b = Math.max(Math.abs(y1 - y0) * height, 1) / 2;
  const outline = OUTLINES[stroke.tool];
  const upright = new Path2D();
  addPolygon(upright, outline(a, b, 0));
  if (stroke.open) {
    const line = Math.max(stroke.width * Math.min(width, height), 1);
    addPolygon(upright, outline(a, b, line));
  }
  const turned = new Path2D();
  const center = new DOMMatrix().translate(((x0 + x1) / 2) * width, ((y0 + y1) / 2) * height);
  turned.addPath(upright, center.rotate(stroke.rotation));
  return turned;
}

function addPolygon(path, points) {
  points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  path.closePath();
}

/**
 * The corners of all that lies `depth` inside a shape of half sizes a, b; none if nothing does.
 * A circle's depth is measured along the ray from its centre, as shapes.py of flexedit/masks does.
 */
const OUTLINES = {
  circle(a, b, depth) {
    const angles = Array.from({ length: 360 }, (_, degrees) => (degrees * Math.PI) / 180);
    return angles.map((angle) => {
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      const radius = Math.max(1 / Math.hypot(cos / a, sin / b) - depth, 0);
      return [radius * cos, radius * sin];
    });
  },
  rectangle(a, b, depth) {
    const [right, bottom] = [a - depth, b - depth];
    if (right <= 0 || bottom <= 0) return [];
    return [
      [-right, -bottom],
      [right, -bottom],
      [right, bottom],
      [-right, bottom],
    ];
  },
  triangle(a, b, depth) {
    const bottom = b - depth;
    const inset = depth * Math.hypot(2 * b, a);
    const half = (a * (bottom + b) - inset) / (2 * b);
    if (half <= 0) return [];
    return [
      [0, inset / a - b],
      [half, bottom],
      [-half, bottom],
    ];
  },
};
