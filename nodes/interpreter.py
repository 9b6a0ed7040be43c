"""The first stage of an edit: the VLLM reads the marked scene and says what the scribble means."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..flexedit.models.vllm.base import REPLIES
from ..flexedit.request import TASKS, EditRequest
from ..flexedit.systems import system
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked, one_of
from .runtime.parts import on_cpu
from .runtime.types import CATEGORY, Intent, Vllm, schema, to_bchw, to_bhwc

AUTO = "auto"  # the mode of reply that the model's makers recommend
MODES = (AUTO, *REPLIES)


class MaskInterpreter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditMaskInterpreter",
            display_name="FlexEdit Mask Interpreter",
            category=CATEGORY,
            description="Shows the scene with your scribble to a vision language model, together "
            "with the instruction, and finds out which object or place you mean.",
            search_aliases=["scribble", "VLM", "LLaVA", "grounding", "what is under the mask"],
            is_output_node=True,  # it shows what was said, needed by another node or not
            inputs=[
                Vllm.Input(
                    "vllm",
                    tooltip="From FlexEdit Loader, or a stock one from FlexEdit VLLM Loader.",
                ),
                io.Image.Input("scene", tooltip="The picture to edit."),
                io.String.Input(
                    "instruction",
                    multiline=True,
                    default="remove this",
                    tooltip="What should change, in plain words: “remove this”, “replace it with a "
                    "cat”, “add the object in [pic2] to [pic1]”. [pic1] is the scene, [pic2] the "
                    "subject. May be empty for segment and ask.",
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="edit",
                    tooltip="edit: change the picture. segment: paint the whole object that is "
                    "meant, for FlexEdit Read Painted Mask. ask: answer in words only.",
                ),
                io.Combo.Input(
                    "reply",
                    options=list(MODES),
                    default=AUTO,
                    tooltip="auto: as the model was taught. direct: fast, without words (reply and "
                    "label stay empty). generate: the model first says what it understood. A "
                    "question is always answered, and a stock VLLM always speaks.",
                ),
                io.Image.Input(
                    "subject",
                    optional=True,
                    tooltip="A second picture with an object to put into the scene: [pic2].",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your scribble, as rough as you like and of any size. Unconnected, the "
                    "instruction is about the whole picture.",
                ),
            ],
            outputs=[
                Intent.Output(
                    "intent", display_name="intent", tooltip="The request and what was understood."
                ),
                io.String.Output(
                    "reply_text",
                    display_name="reply",
                    tooltip="One line per picture. For an edit, a stock VLLM rephrases the "
                    "instruction, so that any other editor can follow it.",
                ),
                io.String.Output(
                    "label",
                    display_name="label",
                    tooltip="The name of what the mask means, if one was said.",
                ),
                io.Image.Output(
                    "marked_scene",
                    display_name="marked scene",
                    tooltip="What the model saw: the mask in white.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, task=None, reply=None):
        problems = (one_of("task", task, TASKS), one_of("reply", reply, MODES))
        return next((problem for problem in problems if problem is not True), True)

    @classmethod
    @checked
    @cancellable
    def execute(
        cls, vllm, scene, instruction, task, reply, mask=None, subject=None
    ) -> io.NodeOutput:
        request = EditRequest.create(
            to_bchw(scene), instruction, mask, None if subject is None else to_bchw(subject), task
        )
        num_pictures = 1 if subject is None else 2
        model = vllm.use(vllm.read().model.memory_required(request.batch_size, num_pictures))
        mark_alpha = vllm.config.mark_alpha if vllm.config else 0.5  # the paper's
        if reply == AUTO:
            reply = vllm.config.sampling.reply if vllm.config else "generate"
        on_token = step_callback(model.longest_answer)
        intent = on_cpu(system.interpret(model, request, reply, mark_alpha, on_token))
        reading = intent.reading
        replies, labels = reading.replies, reading.labels
        said = [
            {"reply": reply, "label": label} for reply, label in zip(replies, labels, strict=True)
        ]
        if task != "ask" and vllm.config:  # a stock VLLM edits nothing
            hints = system.unused(vllm.config, subject=subject is not None, reply=reply)
            if hint := vllm.config.sampling.size_hint(request.height, request.width):
                crop = "Cut out a part with FlexEdit Crop, as the template large_photo does."
                hints.append(f"{hint} {crop}")
            if hints:
                said[0]["hint"] = " ".join(hints)
                logging.warning("FlexEdit: %s", said[0]["hint"])
        return io.NodeOutput(
            intent,
            "\n".join(replies),
            "\n".join(labels),
            to_bhwc(intent.marked).to(scene.dtype),
            ui={"flexedit_reply": said},
        )
