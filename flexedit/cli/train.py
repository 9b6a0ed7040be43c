"""``train``: a system by its recipe, the embedded model from scratch, any model on your edits."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import FlexEditError
from .arguments import PATH, POSITIVE, TRAINING_SEED, Report, finite, together

MIXTURES = (".yaml", ".yml")

common_options = together(
    click.option("--seed", type=TRAINING_SEED, default=0, help="of samples and noise"),
    click.option("--threads", type=POSITIVE, help="CPU threads"),
    click.option(
        "--minutes",
        "seconds",
        type=float,
        callback=lambda _, __, minutes: None if minutes is None else 60 * minutes,
        help="stop after about that time; run again to continue",
    ),
)


PIPELINE = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer_2")
RECIPES = Path(__file__).parents[1] / "training" / "recipes"
run_options = together(
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="another setting of the recipe: stages.joint.train.lr=1e-5; more than once",
    ),
    click.option(
        "--strategy",
        type=click.Choice(("ddp", "fsdp", "deepspeed")),
        help="how processes share the model; default: what the recipe says, ddp",
    ),
    click.option(
        "--report-to",
        multiple=True,
        type=click.Choice(("tensorboard", "wandb", "trackio")),
        help="trackers; more than once",
    ),
    click.option("--push-to-hub", metavar="REPO", help="where the model goes when it is done"),
    click.option(
        "--hub-every",
        type=click.Choice(("end", "checkpoint")),
        default="end",
        help="checkpoint: each of them goes to --push-to-hub meanwhile, too",
    ),
    click.option("--dry-run", is_flag=True, help="say what it will be, and do nothing"),
    click.option("--gpus", type=POSITIVE, help="of a dry run; default: those that are there"),
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="samples a second, for a dry run's hours; default: as the run in --out went",
    ),
)


@click.group(no_args_is_help=False)
def train() -> None:
    """Train a model, resumably."""


@train.command()
@click.option("--out", type=PATH, default=Path("runs/mini"))
@click.option("--stages", help="comma-separated; default: all, in order")
@click.option(
    "--start", type=PATH, help="a flexedit-mini to continue from, at joint or the --stages named"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="another setting of the recipe: stages.base.train.batch_size=512; more than once",
)
@common_options
def mini(
    out: Path,
    stages: str | None,
    start: Path | None,
    overrides: tuple[str, ...],
    seed: int,
    **limits: Any,
) -> Report:
    """Train flexedit-mini from scratch, stage by stage."""
    from ..model_folder import ModelFolder
    from ..training.mini import MiniTraining
    from ..training.recipe import mini_recipe

    _prepare(limits["threads"])
    training = MiniTraining(out, mini_recipe(overrides, seed), seed)
    names = stages.split(",") if stages else None
    if start is not None:
        training.start_from(ModelFolder(start), names or ())
    training.run(names, limits["seconds"])
    return {"out": str(out)}


@train.command("finetune-own")
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="a folder with an index.jsonl, NAME:PATHS or a mixture's YAML",
)
@click.option("--model", type=PATH, help="a folder to continue from; default: flexedit-mini")
@click.option("--out", type=PATH, required=True)
@click.option("--stages", default="joint", help="align, joint or align,joint")
@click.option("--steps", type=POSITIVE, help="of each stage; default: 1000")
@click.option(
    "--batch", "batch_size", type=POSITIVE, help="rows of a step, in all processes; default: 16"
)
@click.option("--accumulate", type=POSITIVE, help="parts that a step is cut into; default: 1")
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    help="default: 2e-4 for align, 1e-5 for joint",
)
@click.option(
    "--optimizer", type=click.Choice(("adamw", "adamw8bit", "muon")), help="default: adamw"
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    callback=finite,
    help="decay of averaged weights; default: 0, off",
)
@click.option(
    "--precision",
    "mixed_precision",
    type=click.Choice(("no", "bf16", "fp16")),
    help="default: bf16 on a GPU and on a CPU that is faster in it, else no",
)
@click.option("--show", type=PATH, help="edits to draw pictures of; default: of --data")
@click.option("--show-every", "validate_every", type=POSITIVE, metavar="STEPS")
@run_options
@common_options
def own(
    data: Path, model: Path | None, out: Path, stages: str, show: Path | None, **settings: Any
) -> Report:
    """Train any model on your own edits."""
    names = ("push_to_hub", "hub_every", "dry_run", "gpus", "rate")
    planned = {name: settings.pop(name) for name in names}
    from ..data.readers import reader_from

    source: Any = str(data)
    if data.suffix not in MIXTURES:
        source = reader_from(source)
        _ = source.rows  # read now: a mistake in them is told before torch is imported

    from ..data.mixture import samples_from
    from ..model_folder import ModelFolder
    from ..training.own import OwnTraining, own_recipe

    _prepare(settings.pop("threads"))
    seconds = settings.pop("seconds")
    start = ModelFolder(model) if model else ModelFolder.embedded()
    overrides = settings.pop("overrides")
    recipe = own_recipe(stages.split(","), overrides, **settings)
    size, seed = start.config.sampling.size, settings["seed"]
    edits = samples_from(source, size, seed)
    if planned["dry_run"]:
        return _say_plan(start, recipe, dict.fromkeys(recipe, edits), out, planned)
    shown = samples_from(str(show), size, seed) if show else edits
    training = OwnTraining(out, start, edits, shown, recipe)
    return _run(training, seconds, _hub(training, planned), [str(start.path)])


train.add_command(own, "own")  # its name before there were others


def _system_command(file: Path) -> click.Command:
    """``train NAME`` of a recipe of a whole system."""
    lines = file.read_text(encoding="utf-8").splitlines()
    about = " ".join(line.lstrip("# ") for line in lines[: lines.index("")])

    @click.command(file.stem, help=about)
    @click.option("--data", type=PATH, help="the folder that the recipe's paths start from")
    @click.option("--model", type=PATH, help="a folder to start from; default: the recipe's parts")
    @click.option("--out", type=PATH, default=Path("runs") / file.stem)
    @run_options
    @common_options
    def command(data: Path | None, model: Path | None, out: Path, **settings: Any) -> Report:
        return _train_system(file.stem, data, model, out, settings)

    return command


for _file in sorted(RECIPES.glob("*.yaml")):
    if _file.stem not in train.commands:
        train.add_command(_system_command(_file))


def _train_system(
    name: str, data: Path | None, model: Path | None, out: Path, settings: dict[str, Any]
) -> Report:
    from ..data.mixture import Mixture
    from ..model_folder import ModelFolder
    from ..training.own import OwnTraining
    from ..training.recipe import system_recipe

    _prepare(settings["threads"])
    seed = settings["seed"]
    recipe = system_recipe(name, settings["overrides"], seed)
    changes = {"strategy": settings["strategy"], "report_to": settings["report_to"]}
    changes = {key: value for key, value in changes.items() if value not in (None, ())}
    stages = {key: stage.with_settings(**changes) for key, stage in recipe.stages.items()}
    parts = [recipe.start.pipeline, recipe.start.clip, recipe.start.vllm]
    own = ModelFolder(model) if model else None
    if own is not None and own.config.sampling.size != recipe.size:
        size = own.config.sampling.size
        raise FlexEditError(
            f"{model} edits at {size} pixels, but {name} would train it at {recipe.size}. Add "
            f"--set size={size}."
        )
    mixtures: dict[str, Any] = {}
    if data is not None:
        made = {repr(it): Mixture(it, data, recipe.size, seed) for it in recipe.data.values()}
        mixtures = {key: made[repr(recipe.data[key])] for key in stages}
    elif not settings["dry_run"]:
        raise FlexEditError(
            f"{name} learns from data sets on your disk. Name their folder by --data; "
            "docs/training.md says where they are from and how they lie in it."
        )
    if settings["dry_run"]:
        with tempfile.TemporaryDirectory() as folder:
            start = own or _planned(recipe, parts, Path(folder))
            return _say_plan(start, stages, mixtures, out, settings)
    start = own or _assembled(recipe, parts, out, seed)
    training = OwnTraining(out, start, mixtures, mixtures[list(stages)[-1]], stages)
    bases = [str(model)] if model else [part for part in parts if part]
    return _run(training, settings["seconds"], _hub(training, settings), bases)


def _planned(recipe: Any, parts: list[str | None], folder: Path) -> Any:
    """The model folder that `_assembled` would make, with configs alone."""
    from ..convert.assemble import planned
    from ..model_folder import ModelFolder
    from ..training.plan import config_folder

    pipeline, clip, vllm = (None if it is None else config_folder(it, folder) for it in parts)
    assert pipeline is not None and clip is not None
    config, sources = planned(pipeline, clip, vllm, recipe.system, recipe.size, recipe.system)
    for name, source in sources.items():
        (folder / name).symlink_to(source.resolve(), target_is_directory=True)
    return ModelFolder(folder, config)


def _assembled(recipe: Any, parts: list[str | None], out: Path, seed: int) -> Any:
    """The model that a recipe starts from, beside the run: one process makes it, once, while the
    others wait.
    """
    from accelerate import PartialState

    from ..convert.assemble import assemble
    from ..model_folder import ModelFolder
    from ..training.processes import wait_until

    target = out.with_name(f"{out.name}-start")
    note, made_of = target / "made-of.json", json.dumps([parts, recipe.system, recipe.size, seed])
    if PartialState().is_main_process and not note.is_file():
        if not target.is_dir():
            pipeline, clip, vllm = map(_downloaded, parts, (PIPELINE, None, None))
            assert pipeline is not None and clip is not None
            assemble(pipeline, clip, vllm, target, recipe.size, seed, recipe.system)
        unfinished = note.with_suffix(".unfinished")
        unfinished.write_text(made_of, encoding="utf-8")
        unfinished.rename(note)
    wait_until(note.is_file)
    if note.read_text(encoding="utf-8") != made_of:
        raise FlexEditError(
            f"{target} was made of other parts, or with another size or seed. Choose another "
            "--out, or delete it."
        )
    return ModelFolder(target)


def _downloaded(source: str | None, folders: tuple[str, ...] | None) -> Path | None:
    """A folder, or what a repository of the hub holds; folders: those that are needed of it"""
    from ..model_folder.folder import DOWNLOADED, snapshot

    if source is None or Path(source).is_dir():
        return None if source is None else Path(source)
    files = [f"{name}/{it}" for name in folders for it in DOWNLOADED] if folders else DOWNLOADED
    try:
        return snapshot(source, None, files)
    except Exception as error:  # the hub's errors share no base; all mean "not to be had"
        raise FlexEditError(
            f"{source} could not be fetched: {error}. Check the connection, or download it and "
            "name its folder: --set start.vllm=FOLDER, start.clip or start.pipeline."
        ) from error


def _say_plan(
    start: Any, stages: Mapping[str, Any], data: Mapping[str, Any], out: Path, settings: Any
) -> Report:
    from ..training import plan

    plans = plan.plans(start, stages)
    rows = {name: sum(len(part.rows) for part in _parts(it)) for name, it in data.items()}
    rate = settings["rate"]
    rates = dict.fromkeys(stages, rate) if rate else plan.measured_rates(out, stages)
    for line in plan.report(plans, settings["gpus"] or plan.num_gpus(), rows, rates):
        click.echo(line, err=True)
    return {"trained": plans[list(plans)[-1]].trained}


def _parts(data: Any) -> list[Any]:
    """The data sets of a mixture, or the one that it is."""
    return getattr(data, "parts", [data])


def _hub(training: Any, settings: Mapping[str, Any]) -> Any:
    """Where the model shall go, if it shall: asked now, and not after weeks."""
    from ..training.hub import Hub

    repo, every = settings["push_to_hub"], settings["hub_every"]
    if repo is None:
        if every != "end":
            raise FlexEditError("--hub-every says when to send. Say by --push-to-hub where to.")
        return None
    return Hub(repo, every) if training.writes else None


def _run(training: Any, seconds: float | None, hub: Any, bases: list[str]) -> Report:
    """Trains and, when it is done, puts the model on the hub if it shall go there."""
    from ..training.card import CARD, card

    if hub is not None and hub.every == "checkpoint":
        training.hub = hub
    out, finished = training.folder, training.run(max_seconds=seconds)
    report = {"out": str(out / "model" if finished else out), "finished": finished}
    if hub is not None:
        hub.finish()
    if finished and hub is not None:
        said = f"python -m flexedit {shlex.join(sys.argv[1:])}"
        sources = sorted({part.name for it in training.data.values() for part in _parts(it)})
        text = card(out, said, sources, bases)
        (out / "model" / CARD).write_text(text, encoding="utf-8")
        report["hub"] = hub.push(out / "model")
    return report


def _prepare(threads: int | None) -> None:
    """Takes the threads, and lets training say what it computes in."""
    import torch

    logging.basicConfig(format="%(message)s")
    logging.getLogger("flexedit").setLevel(logging.INFO)
    if threads:
        torch.set_num_threads(threads)
