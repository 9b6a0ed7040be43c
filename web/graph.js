/** What ComfyUI's graph keeps for itself, also above the drawing. */

import { app } from "../../scripts/app.js";

/** A Vue node hands a drag on by itself; a widget over the classic canvas must. */
const isClassic = (element) => !element.closest(".lg-node");

/** @param {WheelEvent} event */
export function forwardWheel(event) {
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/** Whether the wheel above an element reaches it also in a Vue node. */
export function captureWheel(element, captures) {
  element.dataset.captureWheel = captures;
}

/** @param {HTMLElement} element above which a drag with the middle button moves the graph */
export function forwardMiddleButton(element) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button === 1 && isClassic(element)) app.canvas.processMouseDown(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (event.buttons & 4 && isClassic(element)) app.canvas.processMouseMove(event);
  });
  element.addEventListener("pointerup", (event) => {
    if (event.button === 1 && isClassic(element)) app.canvas.processMouseUp(event);
  });
}

/** A click into the graph moves no focus by itself: its keys would still be the drawing's. */
export function leaveByClick() {
  const leave = ({ target }) => {
    const drawing = document.activeElement?.closest(".flexedit-drawing");
    if (drawing && !drawing.contains(target)) document.activeElement.blur();
  };
  document.addEventListener("pointerdown", leave, { capture: true });
}

/** Leaves fingers on a drawing to it: ComfyUI would zoom the graph as well. */
export function keepTouches() {
  for (const type of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
    const keep = (event) => event.target.closest?.(".flexedit-stage") && event.stopPropagation();
    window.addEventListener(type, keep, { capture: true, passive: true });
  }
}
