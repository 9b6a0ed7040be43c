/** The scene with what a scribble may mean: one picks a candidate on it, or by its button. */

import { element } from "../dom.js";
import { forwardMiddleButton, forwardWheel } from "../graph.js";
import { urlOf } from "../node.js";
import { Region } from "./region.js";

/** @typedef {import("../node.js").File} File */
/**
 * @typedef {object} Resolved what FlexEditResolveMask sends to the page
 * @property {File} scene
 * @property {string} question tells one scene, scribble and method from others
 * @property {number} chosen the candidate that the run put out, from 1
 * @property {boolean} ambiguous whether the first two are two things that it may mean
 * @property {{confidence: number, mask: File}[]} candidates the best first; white on transparent
 */

const MARK = "#ff2d78"; // the drawing's
const OUTLINE = 1.5; // CSS pixels
const SHADOW = 0.75; // more, around the outline
const FILL = 0.45; // opacity
const LONGEST = 800; // pixels of the longer side: a node is seldom wider, and a photograph is large

export class Resolution {
  root = element("div", "flexedit-resolution");
  #stage = element("div", "flexedit-scene");
  #canvas = element("canvas", "");
  #badges = element("div", "flexedit-badges");
  #buttons = element("div", "flexedit-candidates");
  #caption = element("output", "flexedit-status");
  #pick;

  /** @type {Resolved | null} */
  #resolved = null;
  #scene = null;
  /** @type {Region[]} */
  #regions = [];
  #picked = 1;
  /** The question that the picked candidate answers; or, if nobody knows, the first one shown. */
  #answered;
  #first;
  #hovered = 0;
  #isFixed = false;

  /** @param {(candidate: number) => void} pick is told which one was picked, from 1 */
  constructor(pick) {
    this.#pick = pick;
    this.#buttons.setAttribute("role", "group");
    this.#buttons.setAttribute("aria-label", "Candidates");
    this.#stage.append(this.#canvas, this.#badges);
    this.root.append(this.#stage, this.#buttons, this.#caption);
    this.#listen();
  }

  /** @param {Resolved} resolved */
  async show(resolved) {
    this.#resolved = resolved;
    this.#first ??= resolved.question;
    this.#hovered = 0;
    this.#regions = []; // those of the last run take no more clicks
    this.#makeButtons();
    this.#makeBadges();
    this.#update();
    const files = [resolved.scene, ...resolved.candidates.map(({ mask }) => mask)];
    const images = await Promise.all(files.map(load));
    if (resolved !== this.#resolved) return; // another run was faster
    const [scene, ...masks] = images;
    this.#scene = scene;
    this.#regions = scene ? masks.map((mask) => new Region(mask, sizeOf(scene))) : [];
    this.#makeBadges();
    this.#update();
  }

  /** What is shown, undefined before a run. */
  get question() {
    return this.#resolved?.question;
  }

  /**
   * @param {number} candidate that the next run will put out, from 1
   * @param {boolean} isFixed whether it comes from another node and cannot be picked here
   * @param {string | undefined} answered the question for which it was picked
   */
  mark(candidate, isFixed, answered) {
    const isSame = candidate === this.#picked && isFixed === this.#isFixed;
    if (isSame && answered === this.#answered) return;
    this.#picked = candidate;
    this.#isFixed = isFixed;
    this.#answered = answered;
    this.#update();
  }

  #listen() {
    const stage = this.#stage;
    stage.addEventListener("click", (event) => {
      const candidate = this.#next(this.#at(event));
      if (candidate && !this.#isFixed) this.#pick(candidate);
    });
    stage.addEventListener("pointermove", (event) => this.#hover(this.#next(this.#at(event))));
    stage.addEventListener("pointerleave", () => this.#hover(0));
    for (const part of [stage, this.#buttons]) {
      // A Vue node would be dragged.
      part.addEventListener("pointerdown", (event) => event.button || event.stopPropagation());
    }
    stage.addEventListener("wheel", (event) => stage.closest(".lg-node") || forwardWheel(event), {
      passive: false,
    });
    forwardMiddleButton(stage);
    new ResizeObserver(() => this.#draw()).observe(stage);
  }

  /** The candidates at a place, those of smaller area first. */
  #at({ clientX, clientY }) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    return this.#regions
      .map((region, index) => ({ region, candidate: index + 1 }))
      .filter(({ region }) => region.covers(x, y))
      .sort((one, other) => one.region.area - other.region.area)
      .map(({ candidate }) => candidate);
  }

  /** Where candidates lie over one another, another click picks the next larger. */
  #next(candidates) {
    return candidates[(candidates.indexOf(this.#picked) + 1) % candidates.length] ?? 0;
  }

  #hover(candidate) {
    if (candidate === this.#hovered) return;
    this.#hovered = candidate;
    this.#update();
  }

  // Showing

  #makeButtons() {
    const buttons = this.#resolved.candidates.map(({ confidence }, index) => {
      const button = Object.assign(element("button", "flexedit-candidate"), { type: "button" });
      const percent = `${Math.round(confidence * 100)} %`;
      button.append(number(index + 1), percent);
      button.setAttribute("aria-label", `Candidate ${index + 1}, confidence ${percent}`);
      button.title = button.ariaLabel;
      button.style.setProperty("--flexedit-share", `${confidence * 100}%`);
      button.addEventListener("click", () => this.#pick(index + 1));
      button.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") event.stopPropagation();
      });
      for (const [type, candidate] of [
        ["pointerenter", index + 1],
        ["focus", index + 1],
        ["pointerleave", 0],
        ["blur", 0],
      ]) {
        button.addEventListener(type, () => this.#hover(candidate));
      }
      return button;
    });
    this.#buttons.replaceChildren(...buttons);
  }

  #makeBadges() {
    const badges = this.#regions.map((region, index) => {
      const smaller = this.#regions.filter((other) => other.area < region.area);
      const [x, y] = region.middle(smaller);
      const badge = number(index + 1);
      Object.assign(badge.style, { left: `${x * 100}%`, top: `${y * 100}%` });
      return badge;
    });
    this.#badges.replaceChildren(...badges);
  }

  #update() {
    const mark = (parts) =>
      [...parts].forEach((part, index) => {
        part.classList.toggle("flexedit-picked", index + 1 === this.#picked);
        part.classList.toggle("flexedit-hovered", index + 1 === this.#hovered);
      });
    mark(this.#badges.children);
    mark(this.#buttons.children);
    [...this.#buttons.children].forEach((button, index) => {
      button.ariaPressed = index + 1 === this.#picked;
      button.disabled = this.#isFixed;
    });
    this.#caption.value = this.#resolved ? this.#status() : "";
    const warns = this.#resolved && (this.#asks || this.#isLeftOver);
    this.#caption.classList.toggle("flexedit-warning", Boolean(warns));
    this.#draw();
  }

  /** Whether the person should pick one and has not. */
  get #asks() {
    const { ambiguous, chosen } = this.#resolved ?? {};
    return ambiguous && chosen === 1 && this.#picked === 1;
  }

  /** Whether the candidate was picked for another scribble, and is just a number for this one. */
  get #isLeftOver() {
    const answered = this.#answered ?? this.#first;
    return this.#picked > 1 && !this.#isFixed && answered !== this.question;
  }

  #status() {
    const { chosen, candidates } = this.#resolved;
    if (this.#picked !== chosen) {
      return this.#picked <= candidates.length
        ? `Run again to use candidate ${this.#picked}.`
        : `There is no candidate ${this.#picked}.`;
    }
    if (this.#isLeftOver) {
      return `Candidate ${chosen} was picked for something else. Here the best is 1.`;
    }
    if (this.#asks) return "This seems to mean two things, 1 and 2. Click the one you mean.";
    return candidates.length > 1 ? "Click another candidate if you mean that." : "";
  }

  #draw() {
    if (!this.#scene) {
      this.#canvas.getContext("2d").clearRect(0, 0, this.#canvas.width, this.#canvas.height);
      return;
    }
    const [width, height] = sizeOf(this.#scene);
    this.#stage.style.setProperty("--flexedit-aspect", width / height);
    if (!this.#stage.clientWidth) return;
    Object.assign(this.#canvas, { width, height });
    const context = this.#canvas.getContext("2d");
    context.drawImage(this.#scene, 0, 0, width, height);
    const pixel = width / this.#stage.clientWidth;
    const order = this.#regions.map((_, index) => index);
    order.sort((one, other) => (one + 1 === this.#picked) - (other + 1 === this.#picked));
    for (const index of order) this.#drawRegion(context, index, pixel); // the picked one last
  }

  #drawRegion(context, index, pixel) {
    const region = this.#regions[index];
    const isPicked = index + 1 === this.#picked;
    const isRival = this.#asks && index === 1;
    const color = isPicked ? MARK : "white";
    if (isPicked || isRival || index + 1 === this.#hovered) {
      context.globalAlpha = FILL;
      context.drawImage(region.filled(color), 0, 0);
    }
    context.globalAlpha = 0.5;
    context.drawImage(region.outline("black", (OUTLINE + SHADOW) * pixel), 0, 0);
    context.globalAlpha = 1;
    context.drawImage(region.outline(color, OUTLINE * pixel), 0, 0);
  }
}

function number(value) {
  return Object.assign(element("span", "flexedit-number"), { textContent: value });
}

/** @returns {[number, number]} width and height in which a picture is shown */
function sizeOf({ naturalWidth, naturalHeight }) {
  const scale = Math.min(LONGEST / Math.max(naturalWidth, naturalHeight), 1);
  return [naturalWidth, naturalHeight].map((side) => Math.max(Math.round(side * scale), 1));
}

/** @returns {Promise<HTMLImageElement | null>} null if it is gone, as after a restart of ComfyUI */
async function load(file) {
  const image = Object.assign(new Image(), { src: urlOf(file) });
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}
