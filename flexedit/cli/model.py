"""``info`` and ``assemble``: what a model folder holds; making one from other people's parts."""

from __future__ import annotations

from pathlib import Path

import click

from .. import packages
from .arguments import PATH, POSITIVE, Report, json_option
from .messages import warn

BRIDGE_NAMES = {"clip_text": "text"}  # as scripts know them


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--model", type=PATH, help="the same as FOLDER; default: flexedit-mini")
@json_option
def info(folder: Path | None, model: Path | None) -> Report:
    """What a model FOLDER holds, weighs and lacks, and the versions here."""
    for complaint in packages.complaints():
        warn(complaint)
    from ..model_folder import ModelFolder, overview

    chosen = folder or model
    opened = ModelFolder(chosen) if chosen else ModelFolder.embedded()
    config, found = opened.config, overview(opened)
    return {
        "folder": str(opened.path),
        "system": config.name,
        "edit_tokens": config.vllm.num_edit_tokens if config.vllm else 0,
        "bridge": BRIDGE_NAMES.get(config.bridge.type, config.bridge.type),
        "context": f"{config.bridge.num_embeddings} x {config.bridge.width}",
        "prediction": config.diffusion.prediction_type,
        "size": config.sampling.size,
        "steps": config.sampling.num_steps,
        "edit_cfg": config.sampling.edit_cfg,
        "scene_cfg": config.sampling.scene_cfg,
        **found,
        **packages.versions(),
    }


@click.command()
@click.option(
    "--pipeline",
    type=PATH,
    required=True,
    help="a diffusers folder: Stable Diffusion 1, SDXL or InstructPix2Pix",
)
@click.option("--clip", type=PATH, required=True, help="a folder with both towers")
@click.option(
    "--image-encoder",
    type=PATH,
    help="another CLIP's vision tower, such as ViT-H, to look through in its place",
)
@click.option(
    "--vllm",
    type=PATH,
    help="for systems with a VLLM: the folder of a LLaVA, ViP-LLaVA, Qwen2.5-VL …",
)
@click.option(
    "--system",
    default="flexedit",
    help="flexedit (the default), smartedit, insightedit, mgie or instructpix2pix",
)
@click.option("--size", type=POSITIVE, default=256, help="side of the training pictures, in pixels")
@click.option("--out", type=PATH, required=True)
def assemble(
    pipeline: Path,
    clip: Path,
    image_encoder: Path | None,
    vllm: Path | None,
    system: str,
    size: int,
    out: Path,
) -> Report:
    """Make a model to train from other people's parts."""
    from ..convert.assemble import assemble

    made = assemble(pipeline, clip, vllm, out, size, system=system, image_encoder=image_encoder)
    return {"out": str(made.path)}
