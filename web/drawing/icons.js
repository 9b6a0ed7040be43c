/** What is on the buttons: paths in a box of 24 × 24. */

const PATHS = {
  brush:
    "M20.5 3.5 11 13m-1.8 1.2c-2 0-3 1.2-3.2 3-.1 1.5-1 2.5-2.5 3 1 .6 7.5 1.4 8-3.4a2.4 2.4 0 0 0-2.3-2.6Z",
  lasso:
    "M7.5 15.8C4.7 14.9 3 12.9 3 10.5 3 6.9 7 4 12 4s9 2.9 9 6.5S17 17 12 17c-.9 0-1.7 0-2.5-.2M8 14a2.3 2.3 0 1 0 0 4.6A2.3 2.3 0 0 0 8 14Zm.5 4.7c.2 1-.2 1.8-1.5 2.8",
  circle: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16Z",
  rectangle: "M3.5 6h17v12h-17Z",
  triangle: "M12 4.5 21 19.5H3Z",
  eraser:
    "m8.5 19.5-4.7-4.7a1.6 1.6 0 0 1 0-2.3l8.4-8.4a1.6 1.6 0 0 1 2.3 0l5.4 5.4a1.6 1.6 0 0 1 0 2.3l-7.7 7.7ZM8 8.5l7.5 7.5M12 19.5h8",
  fill: "M12 3.5c3.6 4.3 5.6 7.1 5.6 10.2a5.6 5.6 0 0 1-11.2 0c0-3.1 2-5.9 5.6-10.2Z",
  undo: "M8 5 4 9l4 4M4.5 9H14a5.5 5.5 0 0 1 0 11h-3",
  redo: "m16 5 4 4-4 4m3.5-4H10a5.5 5.5 0 0 0 0 11h3",
  clear: "M4.5 7h15M9.5 7V4h5v3M6.5 7l1 13h9l1-13M10.3 11v5.5m3.4-5.5v5.5",
  minus: "M6 12h12",
  plus: "M6 12h12M12 6v12",
};

const SVG = "http://www.w3.org/2000/svg";

/** @param {keyof PATHS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
