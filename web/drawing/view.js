/** Where the picture lies on the stage: fitted into it, zoomed and moved. */

const MAX_ZOOM = 16;

export class View {
  zoom = 1;
  /** The part of the picture at the middle of the stage, as fractions of it. */
  #center = [0.5, 0.5];
  #stage = [1, 1];
  #picture = [1, 1];

  /**
   * @param {[number, number]} stage width, height in CSS pixels
   * @param {[number, number]} picture width, height in its pixels
   */
  resize(stage, picture) {
    this.#stage = stage;
    this.#picture = picture;
    this.#clamp();
  }

  /** CSS pixels for one pixel of the picture. */
  get scale() {
    const [width, height] = this.#picture;
    return this.zoom * Math.min(this.#stage[0] / width, this.#stage[1] / height);
  }

  /** The picture's rectangle on the stage, CSS pixels. */
  get rectangle() {
    const [width, height] = this.#picture.map((side) => side * this.scale);
    return {
      x: this.#stage[0] / 2 - this.#center[0] * width,
      y: this.#stage[1] / 2 - this.#center[1] * height,
      width,
      height,
    };
  }

  /** A place on the stage → fractions of the picture. */
  toPicture([x, y]) {
    const { x: left, y: top, width, height } = this.rectangle;
    return [(x - left) / width, (y - top) / height];
  }

  /** Zooms so that the picture stays under a place on the stage. */
  zoomAt(factor, place) {
    const before = this.toPicture(place);
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MAX_ZOOM);
    const after = this.toPicture(place);
    this.#center = this.#center.map((value, axis) => value + before[axis] - after[axis]);
    this.#clamp();
  }

  pan(dx, dy) {
    const { width, height } = this.rectangle;
    this.#center = [this.#center[0] - dx / width, this.#center[1] - dy / height];
    this.#clamp();
  }

  fit() {
    this.zoom = 1;
    this.#clamp();
  }

  /** No gap between picture and stage that could be filled; centred where it is smaller. */
  #clamp() {
    const { width, height } = this.rectangle;
    this.#center = this.#center.map((value, axis) => {
      const half = this.#stage[axis] / 2 / [width, height][axis];
      return half >= 0.5 ? 0.5 : Math.min(Math.max(value, half), 1 - half);
    });
  }
}
