/** Undo and redo, over drawings that are never changed in place. */

/** @typedef {import("./strokes.js").Stroke[]} Strokes */

export class History {
  #past = [];
  #future = [];

  /** @type {Strokes} */
  strokes = [];

  /** Begins anew with a drawing that came from elsewhere. */
  load(strokes) {
    this.strokes = strokes;
    this.#past = [];
    this.#future = [];
  }

  /** @param {Strokes} strokes */
  commit(strokes) {
    this.#past.push(this.strokes);
    this.#future = [];
    this.strokes = strokes;
  }

  get canUndo() {
    return this.#past.length > 0 || this.strokes.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** What was drawn before the page was loaded goes stroke by stroke. */
  undo() {
    this.#future.push(this.strokes);
    this.strokes = this.#past.pop() ?? this.strokes.slice(0, -1);
  }

  redo() {
    this.#past.push(this.strokes);
    this.strokes = this.#future.pop();
  }
}
