/**
 * The JSON that keeps a drawing. flexedit/masks/strokes.py validates and rasterises it;
 * docs/strokes.md is its reference.
 *
 * @typedef {[number, number]} Point x, y: fractions of the picture's width and height
 * @typedef {object} Stroke
 * @property {"brush"|"eraser"|"lasso"|"circle"|"rectangle"|"triangle"} tool
 * @property {boolean} open only the line, or else what lies within
 * @property {number} [width] of the line, as a fraction of the picture's shorter side
 * @property {number} [rotation] degrees clockwise, of a shape
 * @property {Point[]} points the path, or two opposite corners of a shape's box
 */

export const VERSION = 1;
export const LINES = ["brush", "eraser"];
export const SHAPES = ["circle", "rectangle", "triangle"];
export const TOOLS = ["brush", "lasso", ...SHAPES, "eraser"];
export const DEFAULT_WIDTH = 0.05;

/** @returns {boolean} whether a tool draws just the line unless told otherwise */
export function isOpenByDefault(tool) {
  return LINES.includes(tool);
}

/** Whether a tool can draw along so many points. */
function isEnough(tool, count) {
  if (SHAPES.includes(tool)) return count === 2;
  return count >= (tool === "lasso" ? 3 : 1);
}

/** What may come from elsewhere and leave out what has a default → a whole stroke. */
function complete({ tool, points, open, width, rotation }) {
  const isPoint = (point) => point?.length === 2 && point.every(Number.isFinite);
  if (!TOOLS.includes(tool) || !isEnough(tool, points?.length) || !points.every(isPoint)) {
    throw new TypeError(tool);
  }
  return {
    tool,
    open: open ?? isOpenByDefault(tool),
    width: width ?? DEFAULT_WIDTH,
    rotation: rotation ?? 0,
    points,
  };
}

/**
 * @param {string} text
 * @returns {Stroke[] | null} null if the text cannot be shown here; Python says what is wrong
 */
export function read(text) {
  if (!text.trim()) return [];
  try {
    const { version, strokes } = JSON.parse(text);
    return version === VERSION ? strokes.map(complete) : null;
  } catch {
    return null;
  }
}

/**
 * @param {Stroke[]} strokes
 * @returns {string} an empty text for an empty drawing
 */
export function write(strokes) {
  if (!strokes.length) return "";
  return JSON.stringify({ version: VERSION, strokes: strokes.map(withoutDefaults) });
}

function withoutDefaults({ tool, open, width, rotation, points }) {
  const needsWidth = open || LINES.includes(tool);
  return { tool, open, ...(needsWidth && { width }), ...(rotation && { rotation }), points };
}

const round = (value) => Math.round(value * 1e4) / 1e4; // a pixel of a picture 10,000 wide

/**
 * A stroke as it is kept: rounded, without points that do not bend its path.
 *
 * @param {Stroke} stroke
 * @param {number} aspect width / height of the picture
 * @returns {Stroke}
 */
export function settle(stroke, aspect) {
  const points = SHAPES.includes(stroke.tool) ? stroke.points : simplify(stroke.points, aspect);
  return {
    ...stroke,
    width: round(stroke.width),
    points: points.map(([x, y]) => [round(x), round(y)]),
  };
}

const TOLERANCE = 0.0008; // of the shorter side: less than half a pixel in a picture of 512

/** Ramer, Douglas and Peucker: drops points nearer than TOLERANCE to the line they lie on. */
function simplify(points, aspect) {
  const [scaleX, scaleY] = aspect > 1 ? [aspect, 1] : [1, 1 / aspect];
  const path = points.map(([x, y]) => [x * scaleX, y * scaleY]);
  const keep = new Set([0, points.length - 1]);
  const spans = [[0, points.length - 1]];
  while (spans.length) {
    const [first, last] = spans.pop();
    let [farthest, distance] = [0, TOLERANCE];
    for (let i = first + 1; i < last; i++) {
      const away = distanceToSegment(path[i], path[first], path[last]);
      if (away > distance) [farthest, distance] = [i, away];
    }
    if (farthest) {
      keep.add(farthest);
      spans.push([first, farthest], [farthest, last]);
    }
  }
  return points.filter((_, i) => keep.has(i));
}

function distanceToSegment([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1);
  const share = Math.min(Math.max(along, 0), 1);
  return Math.hypot(x - x0 - share * dx, y - y0 - share * dy);
}
