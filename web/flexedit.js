/** FlexEdit in the browser: one draws on its nodes, and sees on them what a run found. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addDrawing, keepLooking, showRun } from "./drawing/node.js";
import { keepTouches, leaveByClick } from "./graph.js";
import { addReply } from "./results/reply.js";
import { addResolution } from "./results/resolver.js";

const STYLES = ["./flexedit.css", "./drawing/drawing.css", "./results/results.css"];
const WIDGETS = {
  FlexEditFreeShapeMask: addDrawing,
  FlexEditMaskInterpreter: addReply,
  FlexEditResolveMask: addResolution,
};

app.registerExtension({
  name: "FlexEdit.Widgets",

  setup() {
    for (const path of STYLES) {
      const { href } = new URL(path, import.meta.url);
      document.head.append(
        Object.assign(document.createElement("link"), { rel: "stylesheet", href }),
      );
    }
    keepTouches();
    leaveByClick();
    keepLooking();
    api.addEventListener("flexedit.picture", ({ detail }) => showRun(detail));
  },

  nodeCreated(node) {
    WIDGETS[node.comfyClass]?.(node);
  },
});
