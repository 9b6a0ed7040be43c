"""``edit`` and ``interpret``: what a model does to pictures, and says about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import prompts
from ..errors import FlexEditError
from .arguments import PATH, SEED, Report, finite, model_options, together
from .messages import progress, warn

if TYPE_CHECKING:
    from ..data.record import Record
    from ..pipeline import FlexEditPipeline

# of a square around a rough mask, and of what is put back
CROP_CONTEXT, CROP_FEATHER, CROP_REGION = 2.0, 2, "mask + connected change"

request_options = together(
    click.option("--scene", type=PATH, required=True),
    click.option("--mask", type=PATH, help="white (or opaque) = edit; none = everywhere"),
    model_options,
)
# what a whole batch shares
setting_options = together(
    click.option(
        "--reply",
        type=click.Choice(("direct", "generate")),
        help="default: as the model recommends",
    ),
    click.option("--steps", type=int, help="default: what the model recommends"),
    click.option("--edit-cfg", type=float, callback=finite),
    click.option("--scene-cfg", type=float, callback=finite),
    click.option("--subject-strength", type=float, default=1.0, callback=finite, help="λ"),
    click.option(
        "--crop",
        is_flag=True,
        help="edit a square around the mask at the model's size, and put it back",
    ),
)


@click.command()
@request_options
@click.option("--instruction", required=True, help="what should change")
@click.option("--subject", type=PATH, help="a picture of the thing to insert")
@click.option("--task", type=click.Choice(("edit", "segment")), default="edit")
@click.option("--seed", type=SEED, default=0)
@setting_options
@click.option("--out", type=PATH, required=True, help="where the picture is written")
def edit(scene: Path, mask: Path | None, subject: Path | None, out: Path, **options: Any) -> Report:
    """Edit a picture where a scribble says."""
    _require_pictures(scene, mask, subject)
    from ..data.record import Record

    words = {name: options.pop(name) for name in ("instruction", "task", "seed")}
    job = Record(str(scene), mask=str(mask or ""), subject=str(subject or ""), **words)
    return make_edit(make_pipeline(options), job, Path(), out, options, warn, progress)


@click.command()
@request_options
@click.option("--instruction", default="", help="a question, instead of the usual one")
@click.option("--mask-out", type=PATH, help="paint the whole object, save its mask")
@click.option("--expressive", is_flag=True, help="say the instruction at length, as MGIE does")
@click.option("--vllm", type=PATH, help="with --expressive: a stock VLLM's folder, not a model's")
def interpret(
    scene: Path,
    mask: Path | None,
    instruction: str,
    mask_out: Path | None,
    expressive: bool,
    vllm: Path | None,
    **model: Any,
) -> Report:
    """Say what a scribble means, or with --expressive what an instruction does."""
    _require_pictures(scene, mask)
    if expressive:
        if mask or mask_out:
            raise FlexEditError("--expressive sees no mask. Remove --mask and --mask-out.")
        return {"instruction": _expressive(scene, instruction, vllm, model)}
    if vllm:
        raise FlexEditError("--vllm is for --expressive. Add that, or name a model by --model.")
    from ..files import load_mask, load_picture, write_picture
    from ..masks import read_painted
    from ..request import EditRequest

    pipeline, seen = make_pipeline(model), load_picture(scene)
    drawn = load_mask(mask) if mask else None
    request = EditRequest.create(seen, instruction, drawn, task="ask")
    reading = pipeline.interpret(request).reading
    report: Report = {"reply": reading.replies[0], "label": reading.labels[0]}
    if mask_out:
        if hint := pipeline.config.sampling.size_hint(request.height, request.width):
            warn(hint)
        paint = EditRequest.create(seen, prompts.SEGMENT_INSTRUCTION, drawn, task="segment")
        painted = pipeline(paint, on_step=progress).picture
        read = read_painted(paint.scene, painted.cpu())
        write_picture(read, mask_out)
        report |= {"mask": str(mask_out), "share": round(float(read.mean()), 4)}
    return report


def _expressive(scene: Path, instruction: str, vllm: Path | None, options: dict[str, Any]) -> str:
    """options: `model_options`"""
    from ..files import load_picture
    from ..models.vllm.expressive import express
    from ..pipeline import usable_device
    from ..request import EditRequest

    request = EditRequest.create(load_picture(scene), instruction)
    if vllm is not None:
        from ..model_folder import load_stock_vllm

        if options["model"] is not None:
            raise FlexEditError("Give either --model or --vllm.")
        if options["vllm_bits"] is not None:
            raise FlexEditError("--vllm-bits is for a model's own VLLM. Remove it, or --vllm.")
        place = usable_device(options["device"])
        return express(load_stock_vllm(vllm).to(place), request.to(place), False)[0]
    pipeline = make_pipeline(options)
    speaks_first = pipeline.config.sampling.reply == "generate"
    return express(pipeline.now(pipeline.vllm), request.to(pipeline.device), speaks_first)[0]


def _require_pictures(*files: Path | None) -> None:
    """So early that a wrong one is told before torch and the model are loaded."""
    from ..files import read_picture

    for file in filter(None, files):
        read_picture(file, mode=None)


def make_edit(
    pipeline: FlexEditPipeline,
    job: Record,
    folder: Path,
    out: Path,
    settings: dict[str, Any],
    warn: Callable[[str], None],
    on_step: Callable[[int, int], None] | None = None,
) -> Report:
    """Files in ``folder`` → the file ``out``; ``settings`` are those of `setting_options`."""
    from .. import masks
    from ..files import color_profile, load_mask, load_picture, write_picture
    from ..masks import compositing
    from ..request import EditRequest
    from ..systems import system

    how, crop = dict(settings), None
    scene = load_picture(folder / job.scene)
    mask = load_mask(folder / job.mask) if job.mask else None
    subject = load_picture(folder / job.subjects[0]) if job.subjects else None
    seen, seen_mask = scene, mask
    if how.pop("crop"):
        if mask is None:
            raise FlexEditError("--crop cuts around the mask: give a mask too.")
        mask = masks.prepare_mask(mask, *scene.shape[-2:])
        size = pipeline.config.sampling.size
        seen, seen_mask, crop = compositing.cut(scene, mask, size, CROP_CONTEXT)
    request = EditRequest.create(seen, job.instruction, seen_mask, subject, job.task)
    if hint := pipeline.config.sampling.size_hint(request.height, request.width):
        warn(f"{hint} --crop edits the part around the mask.")
    for note in system.unused(
        pipeline.config,
        subject=subject is not None,
        reply=how["reply"],
        strength=how["subject_strength"],
    ):
        warn(note)
    result = pipeline(request, seed=job.seed, num_steps=how.pop("steps"), on_step=on_step, **how)
    picture = result.picture.cpu()
    if crop is not None:
        assert mask is not None
        picture, _ = compositing.put_edit(
            scene, picture, mask, crop=crop, region=CROP_REGION, feather=CROP_FEATHER
        )
    elif scene.shape[0] == 4:
        picture = compositing.with_alpha(picture, scene[None, 3:], request.mask)
    write_picture(picture[0], out, color_profile(folder / job.scene))
    return {"out": str(out), "reply": result.replies[0], "label": result.labels[0]}


def make_pipeline(options: dict[str, Any]) -> FlexEditPipeline:
    """Takes what is of `model_options` out of the options."""
    from ..pipeline import FlexEditPipeline

    model, device = options.pop("model"), options.pop("device")
    memory = {name: options.pop(name) for name in ("offload", "vllm_bits")}
    return FlexEditPipeline.from_pretrained(model, device, **memory)
