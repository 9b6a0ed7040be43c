/** Which key does what, while the drawing has the focus. */

const PLAIN = {
  b: ["tool", "brush"],
  l: ["tool", "lasso"],
  c: ["tool", "circle"],
  r: ["tool", "rectangle"],
  t: ["tool", "triangle"],
  e: ["tool", "eraser"],
  f: ["toggleFill"],
  "[": ["thicken", 1 / 1.15],
  "]": ["thicken", 1.15],
  ",": ["rotate", -5],
  ".": ["rotate", 5],
  "<": ["rotate", -45],
  ">": ["rotate", 45],
  "+": ["zoom", 1.25],
  "=": ["zoom", 1.25],
  "-": ["zoom", 1 / 1.25],
  0: ["fit"],
  delete: ["clear"],
  backspace: ["undo"],
  escape: ["leave"],
};

/**
 * @param {KeyboardEvent} event
 * @returns {[string, ...unknown[]] | undefined} a command and its arguments; other keys are
 *   none of ours, so that ComfyUI's shortcuts keep working
 */
export function commandOf(event) {
  const key = event.key.toLowerCase();
  const isTyped = event.altKey || !event.ctrlKey; // AltGr is Ctrl and Alt, on some keyboards Option
  if ((key === "[" || key === "]") && isTyped && !event.metaKey) return PLAIN[key];
  if (event.altKey) return undefined;
  if (!event.ctrlKey && !event.metaKey) return PLAIN[key];
  if (key === "y" || (key === "z" && event.shiftKey)) return ["redo"];
  return key === "z" ? ["undo"] : undefined;
}
