"""What a conversion writes: a model folder, piece by piece, so that no more than a shard of it is
in memory, and an interrupted conversion goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import WEIGHTS_FILE, copy_part
from .sources import Shape, Source, Weights, copy_licences

SHARD = 2 * 10**9  # bytes of one file of weights
NOTE = "conversion.json"  # in an unfinished folder: what it is made of
LICENCE_FOLDER = "licences"


@dataclass(frozen=True)
class Planned:
    """A tensor to write: its shape, and what makes it, when its turn comes."""

    shape: Shape
    make: Callable[[], Tensor]


Plan = Mapping[str, Planned]


def planned(weights: Weights, name: str) -> Planned:
    """A tensor as it is; it counts as used. Raises FlexEditError if it is not there."""
    weights.use([name])
    return Planned(weights.shape(name), lambda: weights.take(name))


def here(tensor: Tensor) -> Planned:
    """A tensor that is in memory already, or mapped from a file."""
    return Planned(tuple(tensor.shape), lambda: tensor)


@contextmanager
def unfinished(out: Path, sources: Sequence[Source]) -> Iterator[Path]:
    """The folder beside ``out`` that a conversion fills; it becomes ``out`` when all is well. An
    interrupted one is found again if its sources are still the same; one with an error is removed.

    Raises FlexEditError if ``out`` exists.
    """
    if out.exists():
        raise FlexEditError(f"{out} is there already. Choose another folder, or delete it.")
    folder = out.with_name(out.name + ".unfinished")
    note, says = folder / NOTE, json.dumps(fingerprint(sources), indent=2)
    if not note.is_file() or note.read_text(encoding="utf-8") != says:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(says, encoding="utf-8")
    try:
        yield folder
        for source in sources:
            if source.path is not None:
                copy_licences(source.path, folder / LICENCE_FOLDER / source.option.lstrip("-"))
        note.unlink()
        folder.rename(out)
    except FlexEditError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def fingerprint(sources: Sequence[Source]) -> dict[str, list[list[str | int]]]:
    """Name, size and time of change of every file of each source."""
    found: dict[str, list[list[str | int]]] = {}
    for source in sources:
        if source.path is not None:
            path = source.path.resolve()
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            stats = [(str(file), file.stat()) for file in files if file.is_file()]
            found[source.option] = [[name, s.st_size, s.st_mtime_ns] for name, s in stats]
    return found


def write_part(folder: Path, plan: Plan, dtype: torch.dtype, name: str = "model") -> None:
    """A part's tensors as ``name``.safetensors or, where they are large, as shards with an index,
    as transformers and diffusers read them. Shards that are there already stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = shared_out(plan, dtype)
    files = [f"{name}.safetensors"]
    if len(groups) > 1:
        files = [f"{name}-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    for file, names in zip(files, groups, strict=True):
        write_tensors(folder / file, {one: plan[one] for one in names}, dtype)
    if len(groups) > 1:
        weight_map = {one: file for file, names in zip(files, groups, strict=True) for one in names}
        total = sum(planned_bytes(one, dtype) for one in plan.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{name}.safetensors.index.json").write_text(text, encoding="utf-8")


def shared_out(plan: Plan, dtype: torch.dtype) -> list[list[str]]:
    """The names of each shard, in order."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in plan.items():
        size += planned_bytes(tensor, dtype)
        if size > SHARD and groups[-1]:
            groups.append([])
            size = planned_bytes(tensor, dtype)
        groups[-1].append(name)
    return groups


def planned_bytes(tensor: Planned, dtype: torch.dtype) -> int:
    return torch.Size(tensor.shape).numel() * dtype.itemsize


def write_tensors(
    file: Path, plan: Plan, dtype: torch.dtype, metadata: Mapping[str, str] | None = None
) -> None:
    """All at once, whole or not at all; what is there already stays."""
    if file.is_file():
        return
    tensors = {}
    for name, one in plan.items():
        tensor = one.make()
        assert tuple(tensor.shape) == one.shape, (name, tensor.shape, one.shape)
        # a copy of its own: what is mapped, or a view of one large buffer, is let go
        tensors[name] = tensor.detach().to(dtype=dtype, copy=True).contiguous()
    made = file.with_suffix(".part")
    save_file(tensors, made, metadata={"format": "pt"} | dict(metadata or {}))
    made.chmod(0o644)  # safetensors writes files that only their owner may read
    made.replace(file)


def write_trained(folder: Path, plan: Plan, system: str, dtype: torch.dtype) -> None:
    """``flexedit.safetensors``, by the checkpoint's names."""
    write_tensors(folder / WEIGHTS_FILE, plan, dtype, {"system": system})


def take_over(source: Path, target: Path) -> None:
    """A part that stays as it is; what is there already, whole, stays."""
    if target.is_dir():
        return
    made = target.with_name(target.name + ".part")
    shutil.rmtree(made, ignore_errors=True)
    copy_part(source, made)
    made.rename(target)
