/** Shows the picture, the strokes over it and the brush that hovers above them. */

import { lineWidth, paint } from "./shapes.js";

const MARK = "#ff2d78"; // seen on skin, sky and foliage alike; the mask has no colour
const OPACITY = 0.5;
const MAX_RESOLUTION = 3; // canvas pixels for a CSS pixel

export class Painter {
  #canvas;
  // Drawn anew only when they change: a photograph is large, and the pointer moves often.
  #ground = new Layer(); // the picture
  #kept = new Layer(); // the strokes that are finished
  #marks = new Layer(); // and with the one that is being drawn
  #glow = new Layer();
  #resolution = 1;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
  }

  /**
   * Gives the canvas the pixels that its place on the screen has.
   *
   * @returns {boolean} whether they changed
   */
  resize() {
    const { clientWidth, clientHeight } = this.#canvas;
    const zoom = this.#canvas.getBoundingClientRect().width / (clientWidth || 1);
    const wanted = Math.min(Math.max(zoom * devicePixelRatio, 1), MAX_RESOLUTION);
    const resolution = Math.ceil(wanted * 4) / 4;
    const [width, height] = [clientWidth, clientHeight].map((side) =>
      Math.max(Math.round(side * resolution), 1),
    );
    if (width === this.#canvas.width && height === this.#canvas.height) return false;
    Object.assign(this.#canvas, { width, height });
    for (const layer of [this.#ground, this.#kept, this.#marks, this.#glow]) {
      layer.resize(width, height);
    }
    this.#resolution = resolution;
    return true;
  }

  /**
   * @param {object} scene
   * @param {CanvasImageSource | null} scene.image
   * @param {[number, number]} scene.size of the picture, pixels
   * @param {import("./view.js").View} scene.view
   * @param {import("./strokes.js").Stroke[]} scene.strokes
   * @param {import("./strokes.js").Stroke | null} scene.live the one that is being drawn
   * @param {{place: [number, number], stroke: import("./strokes.js").Stroke} | null} scene.brush
   */
  draw({ image, size, view, strokes, live, brush }) {
    const { x, y, width, height } = view.rectangle;
    const place = `${[x, y, width, height]} ${size}`;
    const ground = this.#ground.draw([image, place], (context) => {
      context.scale(this.#resolution, this.#resolution);
      if (image) drawPicture(context, image, view);
      else drawPaper(context, view.rectangle);
    });
    const kept = this.#kept.draw([strokes, place], (context) => {
      this.#toPicture(context, view);
      for (const stroke of strokes) paint(context, stroke, ...size);
    });
    const marks = this.#marks.draw([strokes, live, place], (context) => {
      context.drawImage(kept, 0, 0);
      this.#toPicture(context, view);
      if (live) paint(context, live, ...size);
    });
    const glow = this.#glow.draw([strokes, live, place], (context) => {
      drawGlow(context, marks, 3 * this.#resolution);
    });

    const context = this.#canvas.getContext("2d");
    context.reset();
    context.drawImage(ground, 0, 0);
    context.save();
    context.rect(...[x, y, width, height].map((side) => side * this.#resolution));
    context.clip();
    context.drawImage(glow, 0, 0);
    context.globalAlpha = OPACITY;
    context.drawImage(marks, 0, 0);
    context.restore();
    context.scale(this.#resolution, this.#resolution);
    if (brush) drawBrush(context, brush, size, view);
  }

  /** Makes a pixel of the picture the unit. */
  #toPicture(context, view) {
    const scale = view.scale * this.#resolution;
    const { x, y } = view.rectangle;
    context.setTransform(scale, 0, 0, scale, x * this.#resolution, y * this.#resolution);
  }
}

/** A canvas that is drawn again only when what it shows has changed. */
class Layer {
  #canvas = document.createElement("canvas");
  #shows = [];

  resize(width, height) {
    Object.assign(this.#canvas, { width, height });
    this.#shows = [];
  }

  /**
   * @param {unknown[]} shows what the drawing depends on
   * @param {(context: CanvasRenderingContext2D) => void} draw
   */
  draw(shows, draw) {
    if (shows.every((one, index) => one === this.#shows[index])) return this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.reset();
    context.fillStyle = context.strokeStyle = MARK;
    draw(context);
    this.#shows = shows;
    return this.#canvas;
  }
}

function drawPicture(context, image, view) {
  const { x, y, width, height } = view.rectangle;
  context.imageSmoothingEnabled = view.scale < 4; // beyond, one wants to see pixels
  context.imageSmoothingQuality = "high";
  context.drawImage(image, x, y, width, height);
}

/** A page of squares where the picture will be. */
function drawPaper(context, { x, y, width, height }) {
  const side = 12;
  context.rect(x, y, width, height);
  context.clip();
  context.fillStyle = "rgba(128, 128, 128, 0.12)";
  context.fill();
  context.beginPath();
  for (let row = 0; row * side < height; row++) {
    for (let column = row % 2; column * side < width; column += 2) {
      context.rect(x + column * side, y + row * side, side, side);
    }
  }
  context.fill();
}

/** What surrounds the marks, so that they are seen on a ground of their own colour too. */
function drawGlow(context, marks, blur) {
  context.shadowColor = "white";
  context.shadowBlur = blur;
  context.drawImage(marks, 0, 0);
  context.shadowColor = "transparent";
  context.globalCompositeOperation = "destination-out";
  context.drawImage(marks, 0, 0);
}

/** A ring as thick as the line would be, dark and bright to be seen everywhere. */
function drawBrush(context, { place, stroke }, size, view) {
  const radius = (lineWidth(stroke, ...size) * view.scale) / 2;
  for (const [color, width] of [
    ["rgba(0, 0, 0, 0.6)", 3],
    ["white", 1],
  ]) {
    context.beginPath();
    context.arc(...place, radius, 0, 2 * Math.PI);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}
