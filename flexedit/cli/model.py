"""``info`` and ``assemble``: what a model folder holds, and making one of others' parts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import packages
from .arguments import positive
from .messages import warn


def add_info(commands: Any) -> None:
    info = commands.add_parser("info", help="what a model folder holds, and the versions here")
    info.add_argument("--model", type=Path)
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=run_info)


def add_assemble(commands: Any) -> None:
    assemble = commands.add_parser("assemble", help="make a model to train of others' parts")
    assemble.add_argument(
        "--pipeline",
        type=Path,
        required=True,
        help="a diffusers folder: Stable Diffusion 1 or InstructPix2Pix",
    )
    assemble.add_argument("--clip", type=Path, required=True, help="a folder with both towers")
    assemble.add_argument("--vllm", type=Path, required=True, help="the folder of a LLaVA")
    assemble.add_argument(
        "--size", type=positive, default=256, help="of the pictures to train with, in pixels"
    )
    assemble.add_argument("--out", type=Path, required=True)
    assemble.set_defaults(run=run_assemble)


def run_info(options: argparse.Namespace) -> dict[str, Any]:
    for complaint in packages.complaints():
        warn(complaint)
    from ..model_folder import ModelFolder

    folder = ModelFolder(options.model) if options.model else ModelFolder.embedded()
    config = folder.config
    return {
        "folder": str(folder.path),
        "system": config.name,
        "edit_tokens": config.vllm.num_edit_tokens if config.vllm else 0,
        "bridge": config.bridge.type,
        "context": f"{config.bridge.num_embeddings} x {config.bridge.width}",
        "prediction": config.diffusion.prediction_type,
        "size": config.sampling.size,
        "steps": config.sampling.num_steps,
        "edit_cfg": config.sampling.edit_cfg,
        "scene_cfg": config.sampling.scene_cfg,
        "trained_tensors": len(folder.keys),
        **packages.versions(),
    }


def run_assemble(options: argparse.Namespace) -> dict[str, Any]:
    from ..convert.assemble import assemble

    folder = assemble(options.pipeline, options.clip, options.vllm, options.out, options.size)
    return {"out": str(folder.path)}
