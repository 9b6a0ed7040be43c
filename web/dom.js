/** @returns {HTMLElement} a new element of a class */
export function element(tag, className) {
  return Object.assign(document.createElement(tag), { className });
}
