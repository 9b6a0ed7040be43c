"""From a scribble to the full mask of the object that it means."""

from __future__ import annotations

import json

from comfy import model_management
from comfy_api.latest import io

from ..flexedit import masks
from ..flexedit.resolve import resolver
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked, one_of
from .runtime.preview import show_candidates
from .runtime.types import CATEGORY, Sam, schema, to_bchw, to_bhwc


class ResolveMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditResolveMask",
            display_name="FlexEdit Resolve Mask",
            category=CATEGORY,
            description="Makes the full mask of the object that a rough scribble means, for any "
            "inpainting or editing graph. It ranks what the scribble may mean, and says so when it "
            "seems to mean two things.",
            search_aliases=["segment", "segment anything", "SAM", "GrabCut", "scribble to mask"],
            is_output_node=True,  # it shows what the scribble may mean
            inputs=[
                io.Image.Input("scene", tooltip="The picture that was scribbled on."),
                io.Mask.Input("mask", tooltip="Your scribble, as rough as you like."),
                io.Combo.Input(
                    "method",
                    options=list(resolver.METHODS),
                    default=resolver.METHODS[0],
                    tooltip="classic: from colours and contours alone, without a model. sam: asks "
                    "the Segment Anything model that is connected.",
                ),
                io.Int.Input(
                    "candidate",
                    default=1,
                    min=1,
                    max=len(resolver.COLORS),
                    tooltip="Which of the candidates becomes the mask; 1 is the best. The overlay "
                    "shows them all.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=True,
                    tooltip="Fills what the object encloses. Turn it off for rings and handles.",
                ),
                io.Int.Input(
                    "min_area",
                    default=64,
                    min=0,
                    max=1 << 24,
                    tooltip="Islands of fewer pixels are dropped; the largest always stays.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Pixels to grow the mask by; negative shrinks it.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels over which the mask fades out, inside its border.",
                ),
                Sam.Input(
                    "sam",
                    optional=True,
                    tooltip="From FlexEdit SAM Loader. Only the method sam uses it.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "object_mask", display_name="mask", tooltip="The chosen candidate, in full."
                ),
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="The scene with every candidate's outline; the chosen one is filled.",
                ),
                io.String.Output(
                    "candidates",
                    display_name="candidates",
                    tooltip="JSON: of each picture the candidates with confidence, area, box and "
                    "colour, and whether the scribble is ambiguous.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, method=None):
        return one_of("method", method, resolver.METHODS)

    @classmethod
    @checked
    @cancellable
    def execute(cls, scene, mask, method, candidate, sam=None, **mending) -> io.NodeOutput:
        model = None
        if method == "sam" and sam is not None:
            model = sam.use(sam.read().model.memory_required())
        resolved = resolver.resolve(
            to_bchw(scene),
            mask,
            method,
            sam=model,
            candidate=candidate,
            on_picture=step_callback(max(len(scene), masks.num_masks(mask))),
            look=model_management.throw_exception_if_processing_interrupted,
            **mending,
        )
        return io.NodeOutput(
            resolved.mask,
            to_bhwc(resolved.overlay),
            json.dumps(resolved.report()),
            ui=show_candidates(scene, mask, method, resolved),
        )
