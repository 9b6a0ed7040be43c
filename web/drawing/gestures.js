/**
 * Turns what mouse, pen and fingers do on the stage into drawing, panning and zooming.
 *
 * @typedef {[number, number]} Place on the stage, CSS pixels from its top left corner
 * @typedef {object} Listener
 * @property {(place: Place, how: {erase: boolean}) => void} begin
 * @property {(places: Place[], how: {shift: boolean}) => void} extend
 * @property {() => void} finish
 * @property {() => void} cancel
 * @property {(place: Place | null) => void} hover
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, place: Place) => void} zoom
 * @property {() => boolean} wantsPan whether a drag moves the picture instead of drawing
 */

const ERASER_BUTTON = 32; // of PointerEvent.buttons: the other end of a pen

export class Gestures {
  #stage;
  #listener;
  /** What the pointers that are down do together: "draw", "pan", "pinch" or nothing. */
  #mode = null;
  /** @type {Map<number, Place>} by pointerId */
  #pointers = new Map();
  #device = null;

  /**
   * @param {HTMLElement} stage
   * @param {Listener} listener
   */
  constructor(stage, listener) {
    this.#stage = stage;
    this.#listener = listener;
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", (event) => this.#lose(event));
    stage.addEventListener("lostpointercapture", (event) => this.#lose(event));
    stage.addEventListener("pointerleave", () => listener.hover(null));
  }

  /** Gives up the stroke that is being drawn; the pointer that is down does nothing more. */
  abandon() {
    if (this.#mode === "draw") this.#listener.cancel();
    this.#mode = null;
  }

  #place(event) {
    const stage = this.#stage;
    const box = stage.getBoundingClientRect(); // with the graph's zoom, and the border
    return [
      ((event.clientX - box.left) * stage.offsetWidth) / box.width - stage.clientLeft,
      ((event.clientY - box.top) * stage.offsetHeight) / box.height - stage.clientTop,
    ];
  }

  #down(event) {
    const erase = event.pointerType === "pen" && (event.buttons & ERASER_BUTTON) > 0;
    if (event.button !== 0 && !erase) return; // the other buttons are ComfyUI's
    event.stopPropagation();
    if (this.#pointers.size && event.pointerType !== this.#device) {
      if (event.pointerType !== "pen") return; // a palm beside the pen
      this.abandon();
      this.#pointers.clear();
    }
    this.#device = event.pointerType;
    this.#pointers.set(event.pointerId, this.#place(event));
    this.#stage.setPointerCapture(event.pointerId);
    if (this.#pointers.size === 2) {
      this.abandon();
      this.#mode = "pinch";
    } else if (this.#pointers.size === 1) {
      this.#mode = this.#listener.wantsPan() ? "pan" : "draw";
      if (this.#mode === "draw") this.#listener.begin(this.#place(event), { erase });
    }
  }

  #move(event) {
    const place = this.#place(event);
    this.#listener.hover(event.pointerType === "touch" ? null : place);
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    event.stopPropagation();
    if (this.#mode === "draw") {
      const passed = event.getCoalescedEvents?.() ?? [];
      const places = passed.length ? passed.map((one) => this.#place(one)) : [place];
      this.#listener.extend(places, { shift: event.shiftKey });
    } else if (this.#mode === "pan") {
      this.#listener.pan(place[0] - before[0], place[1] - before[1]);
    } else if (this.#mode === "pinch") {
      this.#pinch(event.pointerId, before, place);
    }
    this.#pointers.set(event.pointerId, place);
  }

  #pinch(pointerId, before, place) {
    const [, other] = [...this.#pointers].find(([id]) => id !== pointerId);
    const spread = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
    this.#listener.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    const middle = [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2];
    this.#listener.zoom(spread(place) / spread(before), middle);
  }

  #up(event) {
    if (!this.#pointers.has(event.pointerId)) return;
    event.stopPropagation();
    const wasDrawing = this.#mode === "draw";
    this.#release(event);
    if (wasDrawing) this.#listener.finish();
  }

  #lose(event) {
    if (!this.#pointers.has(event.pointerId)) return; // it went up before
    this.abandon();
    this.#release(event);
  }

  /** Fingers that stay down after a pinch draw nothing. */
  #release(event) {
    this.#pointers.delete(event.pointerId);
    this.#mode = null;
  }
}
