/** The drawing of one node: its strokes, the picture below them and the tools around. */

import { element } from "../dom.js";
import { captureWheel, forwardMiddleButton, forwardWheel } from "../graph.js";
import { Gestures } from "./gestures.js";
import { History } from "./history.js";
import { commandOf } from "./keys.js";
import { begin, extend, isLine, isMeant } from "./live.js";
import { Painter } from "./painter.js";
import { DEFAULT_WIDTH, SHAPES, TOOLS, isOpenByDefault, read, settle, write } from "./strokes.js";
import { Toolbar, clampWidth } from "./toolbar.js";
import { View } from "./view.js";

/** @typedef {import("./strokes.js").Stroke} Stroke */

const OUTSIDE = 1; // pictures beyond its border where a point is still kept
const [NARROWEST, WIDEST] = [0.6, 2.5]; // width / height of the stage
const INVITATION = "Draw over the thing to edit.";
const OTHERS = "Drawn on another picture. Your next stroke replaces it.";
const BROKEN = "These strokes cannot be shown here. Clear them to draw anew.";

export class Drawing {
  #text = "";
  #isReadable = true;
  /** Names of the picture below, and of the one that was drawn on; "" while nobody knows. */
  #picture = "";
  #drawnOn = "";
  #history = new History();
  #view = new View();

  #tool = "brush";
  #open = Object.fromEntries(TOOLS.map((tool) => [tool, isOpenByDefault(tool)]));
  #width = DEFAULT_WIDTH;
  /** @type {Stroke | null} */
  #live = null;
  #hover = null;
  #holdsSpace = false;

  #image = null;
  #size = [512, 512];
  #aspect = 1; // of the stage
  #hint = "";
  #frame = 0;

  #stage = element("div", "flexedit-stage");
  #canvas = element("canvas", "");
  // An input, for ComfyUI leaves the keys of an input alone; its own undo listens everywhere else.
  #surface = element("input", "flexedit-surface");
  #caption = element("output", "flexedit-caption");
  #toolbar = new Toolbar((name, ...details) => this.#run(name, details));
  #painter = new Painter(this.#canvas);
  #gestures;
  #changed;

  /** @param {(text: string) => void} changed is told of every finished change */
  constructor(changed) {
    this.#changed = changed;
    this.root = element("div", "flexedit-panel flexedit-drawing");
    this.root.title = ""; // the widget's tooltip would cover what one draws
    this.#surface.type = "button";
    this.#surface.setAttribute("aria-label", "Drawing surface");
    this.#stage.append(this.#canvas, this.#surface, this.#caption);
    this.root.append(this.#toolbar.top, this.#stage, this.#toolbar.bottom);
    this.#gestures = new Gestures(this.#stage, {
      begin: (place, how) => this.#begin(place, how),
      extend: (places, how) => this.#extend(places, how),
      finish: () => this.#finish(),
      cancel: () => this.#set({ live: null }),
      hover: (place) => this.#set({ hover: place }),
      pan: (dx, dy) => this.#pan(dx, dy),
      zoom: (factor, place) => this.#zoomAt(factor, place),
      wantsPan: () => this.#holdsSpace || !this.#isReadable,
    });
    this.#listen();
    this.#show();
  }

  // What the node sees

  /** The strokes as JSON. */
  get text() {
    return this.#text;
  }

  set text(text) {
    if (text === this.#text) return;
    this.#gestures.abandon();
    const strokes = read(text);
    this.#text = text;
    this.#isReadable = strokes !== null;
    this.#drawnOn = this.#picture;
    this.#history.load(strokes ?? []);
    this.#show();
  }

  /**
   * @param {CanvasImageSource | null} image
   * @param {[number, number]} size of the picture in pixels
   * @param {string} hint what to do about a missing picture
   */
  showPicture(image, size, hint) {
    if (image === this.#image && `${size}` === `${this.#size}` && hint === this.#hint) return;
    this.#image = image;
    this.#size = size;
    this.#hint = hint;
    this.#aspect = Math.min(Math.max(size[0] / size[1], NARROWEST), WIDEST);
    this.root.style.setProperty("--flexedit-aspect", this.#aspect);
    this.#show();
  }

  /** @param {string} name of the picture that a person chose; "" if nobody did */
  set picture(name) {
    this.#picture = name;
    this.#drawnOn ||= name;
    this.#show();
  }

  get #isOfAnotherPicture() {
    return this.#text !== "" && this.#picture !== "" && this.#drawnOn !== this.#picture;
  }

  /** CSS pixels by which the stage is too low for the picture, or too high where negative. */
  get missingHeight() {
    return Math.round(this.#stage.clientWidth / this.#aspect - this.#stage.clientHeight);
  }

  /** Whether anybody can see it. */
  get isShown() {
    return this.root.checkVisibility() && this.#stage.clientWidth > 0;
  }

  /** Makes the canvas as sharp as the screen shows it. */
  sharpen() {
    if (this.#painter.resize()) this.#show();
  }

  // Events

  #listen() {
    const { root } = this;
    const stage = this.#stage;
    const resized = () => {
      this.#painter.resize();
      this.#show();
    };
    new ResizeObserver(resized).observe(stage);
    for (const type of ["pointerdown", "pointermove", "pointerup"]) {
      // A Vue node would be dragged; the middle button stays ComfyUI's.
      root.addEventListener(type, (event) => {
        if (event.button !== 1 && !(event.buttons & 4)) event.stopPropagation();
      });
    }
    stage.addEventListener("pointerdown", () => this.#surface.focus({ preventScroll: true }));
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => {
      if (event.pointerType === "touch") event.preventDefault(); // a finger that rests
    });
    forwardMiddleButton(stage);
    root.addEventListener("click", (event) => {
      if (event.detail) this.#surface.focus({ preventScroll: true }); // by a pointer, not a key
    });
    root.addEventListener("keydown", (event) => this.#keydown(event));
    root.addEventListener("keyup", (event) => event.key === " " && this.#holdSpace(false));
    this.#surface.addEventListener("blur", () => this.#holdSpace(false));
    root.addEventListener("focusin", () => captureWheel(stage, true));
    root.addEventListener("focusout", () => captureWheel(stage, false));
  }

  #blur() {
    if (this.root.contains(document.activeElement)) document.activeElement.blur();
  }

  #keydown(event) {
    const isSpace = event.key === " " && event.target === this.#surface;
    const command = commandOf(event);
    if (!isSpace && !command) return;
    event.preventDefault();
    event.stopPropagation();
    if (isSpace) this.#holdSpace(true);
    else this.#run(command[0], command.slice(1));
  }

  #holdSpace(holds) {
    this.#holdsSpace = holds;
    this.#stage.classList.toggle("flexedit-grab", holds);
  }

  /** Zooms the picture while one works on it, else the graph, and also where the picture ends. */
  #wheel(event) {
    const isBusy = this.root.contains(document.activeElement);
    if (!isBusy || (event.deltaY > 0 && this.#view.zoom === 1)) {
      forwardWheel(event);
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    if (event.shiftKey) this.#pan(-event.deltaX || -event.deltaY, 0);
    else this.#zoomAt(Math.exp(-event.deltaY * 0.002), [event.offsetX, event.offsetY]);
  }

  // Commands of buttons and keys

  #commands = {
    tool: (tool) => (this.#tool = tool),
    toggleFill: () => (this.#open[this.#tool] = !this.#open[this.#tool]),
    width: (width) => {
      this.#width = width;
      this.#hover = this.#middle; // to see how thick it is
    },
    showBrush: (place) => (this.#hover = place),
    thicken: (factor) => (this.#width = clampWidth(this.#width * factor)),
    rotate: (degrees) => this.#rotate(degrees),
    zoom: (factor) => this.#view.zoomAt(factor, this.#middle),
    fit: () => this.#view.fit(),
    undo: () => this.#history.canUndo && this.#change(() => this.#history.undo()),
    redo: () => this.#history.canRedo && this.#change(() => this.#history.redo()),
    clear: () => this.#text && this.#change(() => this.#history.commit([])),
    leave: () => (this.#live ? this.#gestures.abandon() : this.#blur()),
  };

  #run(name, details) {
    this.#commands[name](...details);
    this.#show();
  }

  get #middle() {
    return [this.#stage.clientWidth / 2, this.#stage.clientHeight / 2];
  }

  #pan(dx, dy) {
    this.#view.pan(dx, dy);
    this.#show();
  }

  #zoomAt(factor, place) {
    this.#view.zoomAt(factor, place);
    this.#show();
  }

  /** Turns the shape that is being drawn, or else the last one. */
  #rotate(degrees) {
    const stroke = this.#live ?? this.#history.strokes.at(-1);
    if (!SHAPES.includes(stroke?.tool)) return;
    const turned = { ...stroke, rotation: (stroke.rotation + degrees) % 360 };
    if (this.#live) this.#live = turned;
    else this.#change(() => this.#history.commit([...this.#history.strokes.slice(0, -1), turned]));
  }

  // Drawing

  #point(place) {
    const inReach = (value) => Math.min(Math.max(value, -OUTSIDE), 1 + OUTSIDE);
    return this.#view.toPicture(place).map(inReach);
  }

  /** The stroke that the pointer would draw, without its points. */
  #settings(tool) {
    return { tool, open: this.#open[tool], width: this.#width, rotation: 0 };
  }

  #begin(place, { erase }) {
    const settings = this.#settings(erase ? "eraser" : this.#tool);
    this.#set({ live: begin(settings, this.#point(place)) });
  }

  #extend(places, { shift }) {
    const points = places.map((place) => this.#point(place));
    this.#set({ live: extend(this.#live, points, shift, this.#size) });
  }

  #finish() {
    const stroke = settle(this.#live, this.#size[0] / this.#size[1]);
    const { width, height } = this.#view.rectangle;
    this.#live = null;
    if (isMeant(stroke, width, height)) {
      const isAnew = this.#isOfAnotherPicture && stroke.tool !== "eraser";
      const kept = isAnew ? [] : this.#history.strokes;
      this.#change(() => this.#history.commit([...kept, stroke]));
    }
    this.#show();
  }

  #change(apply) {
    apply();
    this.#text = write(this.#history.strokes);
    this.#isReadable = true;
    this.#drawnOn = this.#picture;
    this.#changed(this.#text);
  }

  // Showing

  #set({ live = this.#live, hover = this.#hover }) {
    this.#live = live;
    this.#hover = hover;
    this.#draw();
  }

  #show() {
    this.#view.resize([this.#stage.clientWidth || 1, this.#stage.clientHeight || 1], this.#size);
    this.#toolbar.show({
      tool: this.#tool,
      open: this.#open,
      width: this.#width,
      zoom: this.#view.zoom,
      canUndo: this.#history.canUndo,
      canRedo: this.#history.canRedo,
      canClear: this.#text !== "",
    });
    const advice = this.#isOfAnotherPicture ? OTHERS : this.#text ? "" : INVITATION;
    this.#caption.value = this.#isReadable ? this.#hint || advice : BROKEN;
    this.#draw();
  }

  #draw() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const stroke = this.#live ?? this.#settings(this.#tool);
      this.#painter.draw({
        image: this.#image,
        size: this.#size,
        view: this.#view,
        strokes: this.#history.strokes,
        live: this.#live,
        brush: this.#hover && isLine(stroke) ? { place: this.#hover, stroke } : null,
      });
    });
  }
}
