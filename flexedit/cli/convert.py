"""``convert``: weights that the makers of other systems released → a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .arguments import PATH, Report, json_option, together

on_llava = together(
    click.option("--llava", type=PATH, help="LLaVA-1.1, with LLaMA added to its deltas"),
    click.option("--llava-delta", type=PATH, help="or: LLaVA-1.1 as published, and …"),
    click.option("--llama", type=PATH, help="… LLaMA, the first one"),
    click.option("--clip", type=PATH, help="CLIP ViT-L/14, both towers"),
    click.option("--vae", type=PATH, help="Stable Diffusion 1.5's VAE, a diffusers folder"),
    click.option(
        "--check/--no-check", default=True, help="whether to ask the result for its edit tokens"
    ),
    click.option("--out", type=PATH, required=True),
    json_option,
)


@click.group(no_args_is_help=False)
def convert() -> None:
    """Make a model folder of a system's released weights."""


@convert.command()
@click.option(
    "--checkpoint", type=PATH, required=True, help="a diffusers folder, a .ckpt or a .safetensors"
)
@click.option("--vae", type=PATH, help="a diffusers VAE's folder, to take in place of its own")
@click.option(
    "--text-encoder", type=PATH, help="a folder with CLIP's tokenizer, which single files lack"
)
@click.option("--out", type=PATH, required=True)
@json_option
def instructpix2pix(
    checkpoint: Path, vae: Path | None, text_encoder: Path | None, out: Path
) -> Report:
    """InstructPix2Pix, or what was trained on from it, such as MagicBrush; also of SDXL's kind."""
    from ..convert.instructpix2pix import convert_instructpix2pix

    return {"out": str(convert_instructpix2pix(checkpoint, out, vae, text_encoder).path)}


@convert.command()
@click.option("--smartedit", "released", type=PATH, help="the folder SmartEdit-7B or -13B")
@on_llava
def smartedit(released: Path | None, out: Path, **others: Any) -> Report:
    """SmartEdit, 7B or 13B."""
    from ..convert.smartedit import convert_smartedit

    return {"out": str(convert_smartedit(out, released, **others).path)}


@convert.command()
@click.option("--mgie", "released", type=PATH, help="the folder with mllm.pt and unet.pt")
@on_llava
def mgie(released: Path | None, out: Path, **others: Any) -> Report:
    """MGIE (7B)."""
    from ..convert.mgie import convert_mgie

    return {"out": str(convert_mgie(out, released, **others).path)}
