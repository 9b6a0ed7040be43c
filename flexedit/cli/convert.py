"""``convert``: weights that the makers of other systems released → a model folder."""

from __future__ import annotations

from pathlib import Path

import click

from .arguments import PATH, Report, json_option


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
    """InstructPix2Pix, or what was trained on from it, such as MagicBrush."""
    from ..convert.instructpix2pix import convert_instructpix2pix

    return {"out": str(convert_instructpix2pix(checkpoint, out, vae, text_encoder).path)}
