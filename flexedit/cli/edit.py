"""``edit``, ``batch`` and ``interpret``: what a model does to pictures, and says about them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import prompts
from ..errors import FlexEditError
from .arguments import finite, part, seed
from .messages import NO_MEMORY, lacks_memory, progress, warn

if TYPE_CHECKING:
    from ..data.record import Record
    from ..pipeline import FlexEditPipeline

# as in the template large_photo
CROP_CONTEXT, CROP_FEATHER, CROP_REGION = 2.0, 2, "mask + connected change"
# what all edits of a batch share
SETTINGS = ("reply", "steps", "edit_cfg", "scene_cfg", "subject_strength", "crop")


def add_commands(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` of the root parser gave."""
    edit = commands.add_parser("edit", help="edit a picture where a scribble says")
    _request(edit)
    edit.add_argument("--instruction", required=True, help="what should change")
    edit.add_argument("--subject", type=Path, help="a picture of the thing to insert")
    edit.add_argument("--task", choices=("edit", "segment"), default="edit")
    edit.add_argument("--seed", type=seed, default=0)
    _settings(edit)
    edit.add_argument("--out", type=Path, required=True, help="where the picture is written")
    edit.set_defaults(run=run_edit)

    batch = commands.add_parser("batch", help="edit many pictures, resumably")
    batch.add_argument("--list", type=Path, required=True, help="JSONL, an edit a line")
    _settings(batch)
    _model(batch)
    batch.add_argument(
        "--part",
        type=part,
        default=(1, 1),
        metavar="I/N",
        help="only every N-th edit, from the I-th",
    )
    batch.add_argument("--out", type=Path, required=True, help="folder of pictures and results")
    batch.set_defaults(run=run_batch)

    interpret = commands.add_parser("interpret", help="say what a scribble means")
    _request(interpret)
    interpret.add_argument("--instruction", default="", help="a question, instead of the usual one")
    interpret.add_argument("--mask-out", type=Path, help="paint the whole object, save its mask")
    interpret.set_defaults(run=run_interpret)


def _settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reply", choices=("direct", "generate"), default="direct")
    command.add_argument("--steps", type=int, help="default: what the model recommends")
    command.add_argument("--edit-cfg", type=finite)
    command.add_argument("--scene-cfg", type=finite)
    command.add_argument("--subject-strength", type=finite, default=1.0, help="λ")
    command.add_argument(
        "--crop",
        action="store_true",
        help="edit a square around the mask at the model's size, and put it back",
    )


def _request(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scene", type=Path, required=True)
    command.add_argument("--mask", type=Path, help="white (or opaque) = edit; none = everywhere")
    _model(command)


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, help="a model folder; default: flexedit-mini")
    command.add_argument("--device", help="cpu, cuda, …; default: the GPU if there is one")
    command.add_argument("--json", action="store_true")


def run_edit(options: argparse.Namespace) -> dict[str, Any]:
    from ..data.record import Record

    job = Record(
        scene=str(options.scene),
        instruction=options.instruction,
        mask=str(options.mask or ""),
        subject=str(options.subject or ""),
        task=options.task,
        seed=options.seed,
    )
    return _edit(_pipeline(options), job, Path(), options.out, options, warn, progress)


def run_batch(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.systems import described
    from ..jobs import RESULTS, JobRun, read_jobs

    first, step = options.part
    jobs = read_jobs(options.list)[first - 1 :: step]
    pipeline = _pipeline(options)
    pipeline.load()  # what is wrong with it is wrong with every edit
    settings = {name: getattr(options, name) for name in SETTINGS} | described(pipeline)

    def edit(job: Record, out: Path) -> dict[str, Any]:
        notes: list[str] = []
        try:
            report = _edit(pipeline, job, options.list.parent, out, options, notes.append)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise FlexEditError(NO_MEMORY) from error
        return {"reply": report["reply"], "label": report["label"], "notes": notes}

    counts = JobRun(jobs, options.out, settings).run(edit)
    if counts["failed"]:
        raise FlexEditError(
            f"{counts['failed']} of {len(jobs)} edits failed; {options.out / RESULTS} says why. "
            "Run the same again to try them once more."
        )
    return {"out": str(options.out), **counts}


def _edit(
    pipeline: FlexEditPipeline,
    job: Record,
    folder: Path,
    out: Path,
    options: argparse.Namespace,
    warn: Callable[[str], None],
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Files in ``folder`` → the file ``out``; ``options`` are those of `_settings`."""
    from .. import masks
    from ..files import load_mask, load_picture, write_picture
    from ..masks import compositing
    from ..request import EditRequest

    scene, crop = load_picture(folder / job.scene), None
    mask = load_mask(folder / job.mask) if job.mask else None
    subject = load_picture(folder / job.subjects[0]) if job.subjects else None
    seen, seen_mask = scene, mask
    if options.crop:
        if mask is None:
            raise FlexEditError("--crop cuts around the mask: give a mask too.")
        mask = masks.prepare_mask(mask, *scene.shape[-2:])
        size = pipeline.config.sampling.size
        seen, seen_mask, crop = compositing.cut(scene, mask, size, CROP_CONTEXT)
    request = EditRequest.create(seen, job.instruction, seen_mask, subject, job.task)
    if hint := pipeline.config.sampling.size_hint(request.height, request.width):
        warn(f"{hint} --crop edits the part around the mask.")
    result = pipeline(
        request,
        reply=options.reply,
        seed=job.seed,
        num_steps=options.steps,
        edit_cfg=options.edit_cfg,
        scene_cfg=options.scene_cfg,
        subject_strength=options.subject_strength,
        on_step=on_step,
    )
    picture = result.picture.cpu()
    if crop is not None:
        assert mask is not None
        picture, _ = compositing.put_edit(
            scene, picture, mask, crop=crop, region=CROP_REGION, feather=CROP_FEATHER
        )
    write_picture(picture[0], out)
    return {"out": str(out), "reply": result.replies[0], "label": result.labels[0]}


def run_interpret(options: argparse.Namespace) -> dict[str, Any]:
    from .. import masks
    from ..files import load_mask, load_picture, write_picture
    from ..request import EditRequest

    pipeline, scene = _pipeline(options), load_picture(options.scene)
    mask = load_mask(options.mask) if options.mask else None
    request = EditRequest.create(scene, options.instruction, mask, task="ask")
    reading = pipeline.interpret(request).reading
    report: dict[str, Any] = {"reply": reading.replies[0], "label": reading.labels[0]}
    if options.mask_out:
        if hint := pipeline.config.sampling.size_hint(request.height, request.width):
            warn(hint)
        paint = EditRequest.create(scene, prompts.SEGMENT_INSTRUCTION, mask, task="segment")
        painted = pipeline(paint, on_step=progress).picture
        read = masks.read_painted(paint.scene, painted.cpu())
        write_picture(read, options.mask_out)
        report |= {"mask": str(options.mask_out), "share": round(float(read.mean()), 4)}
    return report


def _pipeline(options: argparse.Namespace) -> FlexEditPipeline:
    from ..pipeline import FlexEditPipeline

    return FlexEditPipeline.from_pretrained(options.model, options.device)
