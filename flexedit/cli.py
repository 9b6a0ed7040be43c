"""``python -m flexedit``: the same stages from a shell. Exit 0, or one line of error and exit 2.

With ``--json`` one JSON object goes to standard output; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, prompts
from .arguments import finite, part, positive, seed
from .benchmark import commands as benchmark
from .errors import FlexEditError
from .training import commands as training

if TYPE_CHECKING:
    from .jobs import Job
    from .pipeline import FlexEditPipeline


# as in the template large_photo
CROP_CONTEXT, CROP_FEATHER, CROP_REGION = 2.0, 2, "mask + connected change"
NO_MEMORY = "There is not enough memory for this. Take smaller pictures or fewer."
# what an edit is made of besides its words, and what a whole batch of them shares
FILES = ("scene", "mask", "subject")
SETTINGS = ("reply", "steps", "edit_cfg", "scene_cfg", "subject_strength", "crop")
# what a kind of free-shape mask is drawn with, and a drawing is not
SHAPE_OPTIONS = ("x", "y", "shape_width", "shape_height", "rotation", "stroke", "seed")


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # piped on Windows it has no → and no λ
            stream.reconfigure(encoding="utf-8", errors="replace")
    options = parser().parse_args(arguments)
    try:
        report = options.run(options)
    except (FlexEditError, OSError) as error:  # OSError: a path that cannot be read or written
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if not _lacks_memory(error):
            raise
        return _fail(NO_MEMORY)
    if getattr(options, "json", False):
        print(json.dumps(report))
    elif report:
        for key, value in report.items():
            print(f"{key}: {value}")
    return 0


def _warn(message: str) -> None:
    print(f"flexedit: {' '.join(message.split())}", file=sys.stderr)


def _fail(message: str) -> int:
    _warn(message)
    return 2


def _lacks_memory(error: Exception) -> bool:
    said = str(error).lower()  # the CPU's allocator has no class of its own
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="flexedit", description=__doc__)
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="command")

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

    mask = commands.add_parser("mask", help="draw a free-shape mask")
    mask.add_argument(
        "kind",
        nargs="?",
        help="circle, rectangle, triangle or irregular; each also + ' open'",
    )
    mask.add_argument("--strokes", type=Path, help="instead of a kind: a drawing, as JSON")
    mask.add_argument("--out", type=Path, required=True)
    mask.add_argument(
        "--size", type=positive, nargs=2, metavar=("WIDTH", "HEIGHT"), default=(512, 512)
    )
    for name in SHAPE_OPTIONS:
        read = seed if name == "seed" else float
        mask.add_argument(_option(name), type=read, default=argparse.SUPPRESS)  # draw has its own
    mask.set_defaults(run=run_mask)

    info = commands.add_parser("info", help="what a model folder holds")
    info.add_argument("--model", type=Path)
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=run_info)

    training.add_commands(commands)

    data = commands.add_parser("data", help="write samples of the synthetic world")
    data.add_argument("--out", type=Path, required=True)
    data.add_argument("--count", type=positive, default=16)
    data.add_argument("--size", type=int, default=64)
    data.add_argument("--split", choices=("train", "heldout"), default="train")
    data.add_argument("--seed", type=seed, default=0)
    data.set_defaults(run=run_data)

    bench = commands.add_parser("bench", help="FSMI-Edit: build the benchmark, run and compare")
    benchmark.add_commands(bench.add_subparsers(required=True, metavar="command"))
    return root


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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
    from .jobs import Job

    files = {name: str(path) for name in FILES if (path := getattr(options, name))}
    job = Job(**files, instruction=options.instruction, task=options.task, seed=options.seed)
    return _edit(_pipeline(options), job, Path(), options.out, options, _warn, _progress)


def run_batch(options: argparse.Namespace) -> dict[str, Any]:
    from .benchmark.systems import described
    from .jobs import RESULTS, JobRun, read_jobs

    first, step = options.part
    jobs = read_jobs(options.list)[first - 1 :: step]
    pipeline = _pipeline(options)
    pipeline.load()  # what is wrong with it is wrong with every edit
    settings = {name: getattr(options, name) for name in SETTINGS} | described(pipeline)

    def edit(job: Job, out: Path) -> dict[str, Any]:
        notes: list[str] = []
        try:
            report = _edit(pipeline, job, options.list.parent, out, options, notes.append)
        except (MemoryError, RuntimeError) as error:
            if not _lacks_memory(error):
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
    job: Job,
    folder: Path,
    out: Path,
    options: argparse.Namespace,
    warn: Callable[[str], None],
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Files in ``folder`` → the file ``out``; ``options`` are those of `_settings`."""
    from . import masks
    from .files import load_mask, load_picture, write_picture
    from .masks import compositing
    from .request import EditRequest

    scene, crop = load_picture(folder / job.scene), None
    mask = load_mask(folder / job.mask) if job.mask else None
    subject = load_picture(folder / job.subject) if job.subject else None
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
    from . import masks
    from .files import load_mask, load_picture, write_picture
    from .request import EditRequest

    pipeline, scene = _pipeline(options), load_picture(options.scene)
    mask = load_mask(options.mask) if options.mask else None
    request = EditRequest.create(scene, options.instruction, mask, task="ask")
    reading = pipeline.interpret(request).reading
    report: dict[str, Any] = {"reply": reading.replies[0], "label": reading.labels[0]}
    if options.mask_out:
        if hint := pipeline.config.sampling.size_hint(request.height, request.width):
            _warn(hint)
        paint = EditRequest.create(scene, prompts.SEGMENT_INSTRUCTION, mask, task="segment")
        painted = pipeline(paint, on_step=_progress).picture
        read = masks.read_painted(paint.scene, painted.cpu())
        write_picture(read, options.mask_out)
        report |= {"mask": str(options.mask_out), "share": round(float(read.mean()), 4)}
    return report


def run_mask(options: argparse.Namespace) -> dict[str, Any]:
    from . import masks
    from .files import write_picture
    from .masks import strokes

    width, height = options.size
    if (options.kind is None) == (options.strokes is None):
        raise FlexEditError("Give either a kind of mask, or --strokes FILE with a drawing.")
    shape = {name: value for name, value in vars(options).items() if name in SHAPE_OPTIONS}
    if options.strokes is None:
        drawn = masks.draw(options.kind, height, width, **shape)
    elif shape:
        given = ", ".join(map(_option, shape))
        raise FlexEditError(f"Leave out {given}: a drawing has its own shapes.")
    else:
        drawn = strokes.rasterise(strokes.parse(_read(options.strokes)), height, width)
    write_picture(drawn[None], options.out)
    return {"out": str(options.out), "share": round(float(drawn.mean()), 4)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"{path} cannot be read ({error}). Give a text file.") from error


def run_info(options: argparse.Namespace) -> dict[str, Any]:
    from .checkpoint import ModelFolder

    folder = ModelFolder(options.model) if options.model else ModelFolder.embedded()
    config = folder.config
    return {
        "folder": str(folder.path),
        "system": config.name,
        "edit_tokens": config.num_edit_tokens,
        "bridge": config.bridge,
        "context": f"{config.context_length} x {config.mea.width}",
        "prediction": config.diffusion.prediction_type,
        "size": config.sampling.size,
        "steps": config.sampling.num_steps,
        "edit_cfg": config.sampling.edit_cfg,
        "scene_cfg": config.sampling.scene_cfg,
        "trained_tensors": len(folder.keys),
    }


def run_data(options: argparse.Namespace) -> dict[str, Any]:
    from .data.export import write
    from .data.world import World

    write(World(options.size, options.split, options.seed), range(options.count), options.out)
    return {"out": str(options.out), "samples": options.count}


def _pipeline(options: argparse.Namespace) -> FlexEditPipeline:
    from .pipeline import FlexEditPipeline

    return FlexEditPipeline.from_pretrained(options.model, options.device)


def _progress(done: int, total: int) -> None:
    print(f"\rstep {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def __getattr__(name: str) -> object:
    """Scripts that were written for the first README look here for what `files` holds."""
    moved = {"read_picture": "load_picture", "write_picture": "write_picture"}
    if name not in moved:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import files

    return getattr(files, moved[name])
