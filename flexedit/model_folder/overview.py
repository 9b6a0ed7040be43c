"""What a model folder holds, weighs and lacks; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FlexEditError
from .folder import CONFIGS, WEIGHTS_FILE, ModelFolder
from .keys import PARTS, shorten
from .memory import empty_parts, sizes_of

MB = 1e6
# Of all parts, and of the VLLM where it is kept in fewer bits; bf16 weighs what fp16 does
PRECISIONS: dict[str, tuple[torch.dtype, int | None]] = {
    "fp32": (torch.float32, None),
    "fp16": (torch.float16, None),
    "vllm_8_bits": (torch.float16, 8),
    "vllm_4_bits": (torch.float16, 4),
}


def overview(folder: ModelFolder) -> dict[str, Any]:
    """Sizes on disk by file and folder, memory by precision and part (in MB), licences, and a
    sentence for each thing that is missing.

    Parts on the hub are looked up there, as far as their configs.
    """
    missing, memory = lacking(folder), {}
    trained: tuple[str, ...] = ()
    try:
        trained = folder.keys
        parts = empty_parts(folder)
        missing += untrained(folder, parts)
        for name, (dtype, bits) in PRECISIONS.items():
            if bits is None or "vllm" in parts:
                found = sizes_of(parts, dtype, bits)
                sizes = {part: megabytes(size) for part, size in found.items()}
                memory[name] = sizes | {"all": round(sum(sizes.values()), 1)}
    except FlexEditError as error:
        missing += [str(error)]
    return {
        "trained_tensors": len(trained),
        "parts": {part: place(folder, part) for part in folder.config.sources},
        "disk_mb": on_disk(folder),
        "memory_mb": memory,
        "licences": folder.config.licences | licence_files(folder),
        "missing": list(dict.fromkeys(missing)),
    }


def place(folder: ModelFolder, part: str) -> str:
    source = folder.config.sources[part]
    return source.folder if source.folder is not None else f"{source.repo}@{source.revision}"


def on_disk(folder: ModelFolder) -> dict[str, float]:
    """Of what lies in the folder itself."""
    named = {source.folder for source in folder.config.sources.values() if source.folder}
    places = [folder.path / name for name in (WEIGHTS_FILE, *sorted(named))]
    return {path.name: megabytes(size_of(path)) for path in places if path.exists()}


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def megabytes(size: float) -> float:
    return round(size / MB, 1)


def licence_files(folder: ModelFolder) -> dict[str, str]:
    """Those that were copied from what it was made of."""
    files = sorted(file for file in (folder.path / "licences").rglob("*") if file.is_file())
    return {str(file.relative_to(folder.path)): "the text" for file in files}


def lacking(folder: ModelFolder) -> list[str]:
    """Frozen parts that are not there."""
    found = []
    for part in folder.config.frozen_parts:
        name = folder.text_part if part == "text_encoder" else part
        source = folder.config.sources.get(name)
        try:
            place = folder.part(name, CONFIGS)
            if source and source.folder and not any(place.glob("*.safetensors")):
                found.append(f"{place} has no .safetensors weights. Download or export it again.")
        except FlexEditError as error:
            found.append(str(error))
    return found


def untrained(folder: ModelFolder, parts: Mapping[str, nn.Module]) -> list[str]:
    """What of a system's trained tensors its file of weights lacks."""
    trained: list[Any] = [part for slot, part in parts.items() if slot in ("unet", *PARTS)]
    expected = {key for part in trained for key in part.checkpoint()}
    if folder.config.vllm is not None:
        expected.add("tokens.embed")
    names = sorted(expected - set(folder.keys))
    return [f"{folder.path.name}/{WEIGHTS_FILE} lacks {shorten(names)}."] if names else []
