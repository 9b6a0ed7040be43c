/** Where a candidate is in the scene, from a picture that is transparent everywhere else. */

const STEPS = 16; // directions in which an outline is widened
const LEAST_SHARE = 0.02; // of its area: a smaller part has no room for a number

export class Region {
  /** Pixels that it covers. */
  area;
  #size;
  #mask;
  #covered;
  /** By colour, as every frame needs them. */
  #filled = new Map();
  #outlines = new Map();

  /**
   * @param {HTMLImageElement | null} image nothing is covered if there is none
   * @param {[number, number]} size width and height in which it is kept
   */
  constructor(image, size) {
    this.#size = size;
    this.#mask = this.#paint((context) => image && context.drawImage(image, 0, 0, ...size));
    const { data } = this.#mask.getContext("2d").getImageData(0, 0, ...size);
    this.#covered = Uint8Array.from({ length: size[0] * size[1] }, (_, i) => data[4 * i + 3] > 127);
    this.area = sum(this.#covered);
  }

  /** @returns {boolean} whether it covers a point, given as fractions of width and height */
  covers(x, y) {
    const [width, height] = this.#size;
    const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
    if (column < 0 || row < 0 || column >= width || row >= height) return false;
    return this.#covered[row * width + column] > 0;
  }

  /**
   * Where its number is seen: the middle of the longest run in the row that halves its area.
   *
   * @param {Region[]} others are left out if enough remains
   * @returns {[number, number]} fractions of width and height
   */
  middle(others) {
    const [width, height] = this.#size;
    let own = this.#covered.map((covered, i) => covered && !others.some((it) => it.#covered[i]));
    let area = sum(own);
    if (area < LEAST_SHARE * this.area) [own, area] = [this.#covered, this.area];
    let row = 0;
    for (let above = 0; row < height - 1; row++) {
      above += sum(own.subarray(row * width, (row + 1) * width));
      if (above >= area / 2) break;
    }
    let [start, longest] = [0, 0];
    for (let column = 0, run = 0; column < width; column++) {
      run = own[row * width + column] ? run + 1 : 0;
      if (run > longest) [start, longest] = [column - run + 1, run];
    }
    return [(start + longest / 2) / width, (row + 0.5) / height];
  }

  /** @returns {HTMLCanvasElement} all of it in a colour */
  filled(color) {
    if (!this.#filled.has(color)) {
      const canvas = this.#paint((context) => {
        context.drawImage(this.#mask, 0, 0);
        context.globalCompositeOperation = "source-in";
        context.fillStyle = color;
        context.fillRect(0, 0, ...this.#size);
      });
      this.#filled.set(color, canvas);
    }
    return this.#filled.get(color);
  }

  /** @returns {HTMLCanvasElement} a line of `thickness` pixels around it */
  outline(color, thickness) {
    const last = this.#outlines.get(color);
    if (last?.thickness === thickness) return last.canvas;
    const canvas = this.#paint((context) => {
      for (let step = 0; step < STEPS; step++) {
        const angle = (2 * Math.PI * step) / STEPS;
        const [dx, dy] = [thickness * Math.cos(angle), thickness * Math.sin(angle)];
        context.drawImage(this.filled(color), dx, dy);
      }
      context.globalCompositeOperation = "destination-out";
      context.drawImage(this.#mask, 0, 0);
    });
    this.#outlines.set(color, { thickness, canvas });
    return canvas;
  }

  #paint(draw) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.#size;
    draw(canvas.getContext("2d"));
    return canvas;
  }
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
