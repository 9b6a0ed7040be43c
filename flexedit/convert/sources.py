"""What a conversion reads: the files that others publish, as pickles or .safetensors, whole or in
shards, each tensor when it is asked for.

Nothing but tensors is unpickled, and whoever converts uses every tensor or names it.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder.keys import shorten

BEGINNINGS = (b"PK", b"\x80")  # of a pickle's file: a zip archive, or as torch wrote before 1.6
SHARDS = (  # of transformers and of diffusers
    "model-*.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model-*-of-*.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model-*.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model-*-of-*.bin",
    "diffusion_pytorch_model.bin",
)
NUMBER = re.compile(r"(?<=-)(\d+)(?=-of-(\d+)\.)")  # of a shard
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
Shape = tuple[int, ...]
Entry = tuple[Shape, Callable[[], Tensor]]  # a tensor's shape, and what reads it


@dataclass(frozen=True)
class Source:
    """What a person has to name: by which option, what it is, where it is published."""

    option: str
    path: Path | None
    what: str
    where: str


def require(*sources: Source) -> None:
    """Raises FlexEditError for the sources that are not there, which says where to find each."""
    missing = []
    for source in sources:
        if source.path is None:
            missing.append(f"{source.option} is missing: {source.what}, from {source.where}.")
        elif not source.path.exists():
            missing.append(
                f"{source.option} names {source.path}, which is not there: it should be "
                f"{source.what}, from {source.where}."
            )
    if missing:
        raise FlexEditError(" ".join(missing))


class Weights:
    """The tensors of a file, or of a folder of shards, by their published names."""

    def __init__(self, tensors: Mapping[str, Entry], where: str) -> None:
        """tensors: each one's shape and what reads it · where: what an error calls them"""
        self.where = where
        self._tensors = dict(tensors)
        self._left = set(self._tensors)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], where: str) -> Weights:
        """Tensors that are here already, or mapped from a file."""
        return cls({name: entry(tensor) for name, tensor in tensors.items()}, where)

    @classmethod
    def read(cls, path: Path, within: str | None = None) -> Weights:
        """A file, or a folder of shards as transformers writes them · within: the entry of a pickle
        that holds its tensors, if it is there.

        Raises FlexEditError for what is not there, incomplete, or no tensors.
        """
        found: dict[str, Entry] = {}
        for file in shards(path) if path.is_dir() else [path]:
            if file.suffix == ".safetensors":
                found |= in_safetensors(file)
            else:
                found |= {name: entry(one) for name, one in unpickled(file, within).items()}
        return cls(found, str(path))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Any:
        return iter(self._tensors)

    def shape(self, name: str) -> Shape:
        """Raises FlexEditError for a tensor that is not there."""
        return self._entry(name)[0]

    def take(self, name: str) -> Tensor:
        """The tensor itself; it counts as used. Raises FlexEditError if it is not there."""
        self._left.discard(name)
        return self._entry(name)[1]()

    def use(self, names: Iterable[str]) -> None:
        """These are, or will be, used."""
        self._left -= set(names)

    def ignore(self, pattern: str) -> None:
        """What matches is known, and not needed."""
        self._left = {name for name in self._left if not re.fullmatch(pattern, name)}

    def finish(self) -> None:
        """Raises FlexEditError for tensors that nobody used or named."""
        if self._left:
            raise FlexEditError(
                f"{self.where} has unexpected {shorten(sorted(self._left))}. It is no file of this "
                "release, or one of a newer release than this converter knows."
            )

    def _entry(self, name: str) -> Entry:
        if name not in self._tensors:
            raise FlexEditError(
                f"{self.where} lacks {name}. It is another system's, or was downloaded in part."
            )
        return self._tensors[name]


def shards(folder: Path) -> list[Path]:
    """The files of a folder's weights, .safetensors before pickles.

    Raises FlexEditError if there are none, or not all of them.
    """
    for index in (*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")):
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({folder / name for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FlexEditError(f"{index} is no list of weights ({error!r}).") from error
        if all(file.is_file() for file in files):
            return files
    for pattern in SHARDS:
        if files := sorted(folder.glob(pattern)):
            if missing := sorted(siblings(files[0].name) - {file.name for file in files}):
                raise FlexEditError(
                    f"{folder} was downloaded in part: it lacks {shorten(missing)}. Download "
                    "that, too."
                )
            return files
    raise FlexEditError(f"{folder} holds no weights ({', '.join(SHARDS)}). Download it again.")


def siblings(name: str) -> set[str]:
    """The names of all shards that belong to one, none of a file that is whole."""
    own = NUMBER.search(name)
    numbers = range(1, int(own[2]) + 1) if own else ()
    return {NUMBER.sub(f"{number:0{len(own[1])}}", name) for number in numbers if own}


def entry(tensor: Tensor) -> Entry:
    return tuple(tensor.shape), lambda: tensor


def in_safetensors(file: Path) -> dict[str, Entry]:
    try:
        opened = safe_open(file, framework="pt")
        return {
            name: (tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
            for name in opened.keys()  # noqa: SIM118 - not a dict
        }
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error


def unpickled(file: Path, within: str | None = None) -> dict[str, Tensor]:
    """A pickle's tensors, mapped where the file allows it: no memory is taken until one is used."""
    if not file.is_file():
        raise FlexEditError(f"There is no file {file}.")
    with file.open("rb") as opened:
        if not opened.read(2).startswith(BEGINNINGS):
            raise damaged(file, "it is no file of weights, perhaps a web page or a pointer to one")
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            content = torch.load(file, mmap=True, **options)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            content = torch.load(file, **options)  # as torch wrote it before 1.6
    except pickle.UnpicklingError as error:
        raise FlexEditError(
            f"{file} holds more than tensors, which could run anything on this machine; it is not "
            "read. Look for a file with weights alone, best a .safetensors one."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise damaged(file, error) from error
    if within is not None and isinstance(content, Mapping):
        content = content.get(within, content)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise FlexEditError(f"{file} holds no tensors by name, but a {type(content).__name__}.")
    if within is not None:
        content = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if others := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise FlexEditError(f"{file} holds {shorten(sorted(others))}, which is no tensor.")
    return dict(content)


def damaged(file: Path, error: object) -> FlexEditError:
    why = re.split(r"\.\s", str(error).strip())[0].rstrip(".") or type(error).__name__
    return FlexEditError(
        f"{file} cannot be read ({why}). It was downloaded in part, or is damaged; download it "
        "again."
    )


def copy_licences(path: Path, target: Path) -> None:
    """The licence files that lie beside a source."""
    folder = path if path.is_dir() else path.parent
    for file in (file for pattern in LICENCES for file in folder.glob(pattern) if file.is_file()):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
