"""Files: pictures with whatever kind of pixels, as 8 bits a channel; records and results as JSONL.

H × W the picture's size, C channels
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import FlexEditError
from .validation import validated

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

READING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of Pillow
WHITE = 2**16 - 1  # of 16 bits
BACKDROP = 128 / 255  # of what is transparent: a mask painted over this grey in white still shows
OPAQUE = ("JPEG", "MPO", "PPM")  # formats without transparency that Pillow writes nevertheless
LOSSLESS = {"lossless": True, "exact": True}  # exact: also in colours that alpha hides
SAVED_AS: dict[str, dict[str, Any]] = {  # formats that would else lose more than they must
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": LOSSLESS,
}
SAME_SHAPE = 0.02  # sides rounded to a VAE's ratio of 8 stretch a picture by no more
LONGEST_NAME = 200  # bytes: systems take 255, and others put something before or behind it
RESERVED = {"CON", "PRN", "AUX", "NUL"} | {f"{it}{n}" for it in ("COM", "LPT") for n in range(10)}
SHORTS = ("PNG", "PPM")  # files whose integers have 16 bits, also where Pillow gives them 32


def read_picture(
    file: Path | BinaryIO, mode: str | None = "RGB", *, upright: bool = False
) -> np.ndarray:
    """A picture (H, W) or (H, W, C) uint8 of a Pillow mode; None: RGBA if it has any
    transparency, else RGB. As RGB, what is transparent is laid over BACKDROP.

    ``upright``: turned as its camera noted. Raises FlexEditError for what is no picture, and for
    one of more than 16 bits a channel: nobody knows which of its numbers is white.
    """
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened) if upright else opened
            if picture.mode == "F" or picture.mode.startswith("I"):
                if picture.mode == "F" or (picture.mode == "I" and opened.format not in SHORTS):
                    raise ValueError("it has more than 16 bits a channel: save it with 8 or 16")
                picture = eight_bits(picture)
            if mode == "RGB" and own_mode(picture) == "RGBA":
                picture = over_backdrop(picture)
            return np.asarray(picture.convert(mode or own_mode(picture)))
    except READING_ERRORS as error:
        name = file if isinstance(file, Path) else "a picture"
        raise FlexEditError(f"{name} cannot be read as a picture ({error}).") from error


def read_mask_file(file: Path) -> np.ndarray:
    """A picture of a mask → (H, W) float32 in 0..1: what is opaque, or white if all of it is.

    Raises FlexEditError as `read_picture` does.
    """
    picture = read_picture(file, mode=None, upright=True)
    alpha = picture[..., 3:]
    chosen = alpha if (alpha < 255).any() else picture[..., :3]
    return chosen.mean(-1, dtype=np.float32) / 255


def picture_size(file: Path, *, upright: bool = True) -> tuple[int, int]:
    """Height and width as `read_picture` gives them, in most formats without reading pixels.

    Raises FlexEditError for what is no picture.
    """
    try:
        with Image.open(file) as picture:
            if picture.format == "TIFF":  # Pillow turns some as it opens them, others as it reads
                height, width = read_picture(file, upright=upright).shape[:2]
                return height, width
            width, height = picture.size
            says = picture.format != "PNG" or "exif" in picture.info  # else Pillow reads it all
            lies = upright and says and picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
    except READING_ERRORS as error:
        raise FlexEditError(f"{file} cannot be read as a picture ({error}).") from error
    return (width, height) if lies else (height, width)


@dataclass(frozen=True)
class Frame:
    """How a picture lies in its file: (height, width) as it is stored and as it is seen, and the
    turn between them, in EXIF's numbers.
    """

    stored: tuple[int, int]
    seen: tuple[int, int]
    turn: int

    def upright(self, mask: np.ndarray) -> np.ndarray:
        """A mask (H, W) bool of the stored picture, turned as that is."""
        if self.turn == 1:
            return mask
        image = Image.fromarray(mask)
        image.getexif()[ExifTags.Base.Orientation] = self.turn
        return np.asarray(ImageOps.exif_transpose(image))


def frame_of(file: Path) -> Frame:
    """Raises FlexEditError for what is no picture."""
    stored, seen = (picture_size(file, upright=upright) for upright in (False, True))
    with Image.open(file) as picture:
        if picture.format == "TIFF":
            picture.load()  # Pillow turns some by that, and forgets their turn
        return Frame(stored, seen, picture.getexif().get(ExifTags.Base.Orientation, 1))


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether pictures of these heights and widths lie over each other when they are scaled."""
    return abs(math.log(one[0] / one[1] * other[1] / other[0])) <= SAME_SHAPE


def eight_bits(picture: Image.Image) -> Image.Image:
    """Greyscale of 16 bits → of 8; ``convert`` would make all above 255 white."""
    return Image.fromarray(np.rint(255 / WHITE * np.asarray(picture)).astype(np.uint8))


def own_mode(picture: Image.Image) -> str:
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return "RGBA" if has_alpha else "RGB"


def over_backdrop(picture: Image.Image) -> Image.Image:
    """As models and formats without transparency see it."""
    whole = picture.convert("RGBA")
    grey = Image.new("RGBA", whole.size, (round(255 * BACKDROP),) * 3)
    return Image.alpha_composite(grey, whole).convert("RGB")


def color_profile(file: Path) -> bytes | None:
    """What a picture says of its colours (ICC), None if that is nothing about red, green and blue.

    Raises FlexEditError for what is no picture.
    """
    try:
        with Image.open(file) as picture:
            profile = picture.info.get("icc_profile") or b""
    except READING_ERRORS as error:
        raise FlexEditError(f"{file} cannot be read as a picture ({error}).") from error
    return profile if profile[16:20] == b"RGB " else None


def unwritable(name: str) -> str:
    """Why a picture cannot have this name on Linux, macOS or Windows, "" if it can."""
    if Path(name).name != name or "/" in name or "\\" in name or name in (".", ".."):
        return "give the name of a picture, no path."
    if bad := re.search(r'[\x00-\x1f<>:"|?*]|[ .]$', name):
        return f"give the name of a picture without {bad[0]!r}, which not all systems can write."
    if len(name.encode()) > LONGEST_NAME:
        return f"give the name of a picture of at most {LONGEST_NAME} bytes; it has {len(name)}."
    stem, suffix = os.path.splitext(name)
    if stem.partition(".")[0].rstrip().upper() in RESERVED:
        return "give the name of a picture that Windows does not keep for a device."
    if not writes(suffix.lower()):
        return "give the name of a picture with an ending that says how to write it, like .png."
    return ""


@cache
def writes(suffix: str) -> bool:
    """Whether Pillow, as it is installed here, writes colours into files of this ending."""
    picture_format = Image.registered_extensions().get(suffix)
    try:
        Image.new("RGB", (1, 1)).save(io.BytesIO(), picture_format or "")
    except (KeyError, *READING_ERRORS):
        return False
    return True


def load_picture(path: Path) -> Tensor:
    """A picture file → (3 or 4, H, W) in 0..1, upright as ComfyUI's LoadImage has it."""
    import torch

    picture = read_picture(path, mode=None, upright=True)
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def load_mask(path: Path) -> Tensor:
    """A picture of a mask → (H, W) in 0..1, see `read_mask_file`."""
    import torch

    return torch.from_numpy(read_mask_file(path))


def write_picture(picture: Tensor, path: Path, profile: bytes | None = None) -> None:
    """(1, 3 or 4, H, W) in 0..1 → a whole file or none, rounded as ComfyUI's SaveImage does.

    ``profile``: of its colours, see `color_profile`. In a format without transparency it
    is laid over BACKDROP. Raises FlexEditError for what cannot be written.
    """
    array = np.clip(255.0 * picture.detach().cpu().numpy(), 0, 255).astype(np.uint8)
    image = Image.fromarray(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1))
    unfinished = path.with_name(f".{path.stem[:40]}.{os.getpid()}.tmp")
    try:
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"unknown ending {path.suffix!r}; write .png")
        if kind in OPAQUE and image.mode == "RGBA":
            image = over_backdrop(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(unfinished, kind, icc_profile=profile, **SAVED_AS.get(kind, {}))
        os.replace(unfinished, path)
    except (KeyError, OSError, ValueError) as error:  # KeyError: a format that is only read
        raise FlexEditError(f"{path} cannot be written ({error}).") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


# JSON


def read_json(file: Path) -> Any:
    """Raises FlexEditError for a file that cannot be read, or is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise FlexEditError(f"{file} is not valid JSON ({why[:200]}).") from error


def read_yaml(file: Path) -> Any:
    """Raises FlexEditError for a file that cannot be read, or is not YAML."""
    import yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        anchors: list[str | None] = []  # of the lists and mappings that are open
        for event in yaml.parse(text):
            if isinstance(event, yaml.CollectionStartEvent):
                anchors.append(event.anchor)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchors.pop()
            elif isinstance(event, yaml.AliasEvent) and any(anchors):
                # ten lines of that may stand for more than any memory holds
                raise ValueError(f"*{event.anchor} is inside of what another name refers to")
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise FlexEditError(f"{file} cannot be read as YAML ({why[:200]}).") from error


def read_records(kind: type[T], file: Path) -> dict[int, T]:
    """A record of every line of a JSONL file that is not blank, by its number; null is left out.

    Raises FlexEditError for a file that cannot be read or has no lines, and for a bad line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # some programs begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"{file} cannot be read ({error}).") from error
    records = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = line_of(file, number)
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FlexEditError(f"{where}: this is not valid JSON ({error}).") from error
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if value is not None}
        records[number] = validated(kind, data, where)
    if not records:
        raise FlexEditError(f"{file} is empty: it needs a JSON object a line.")
    return records


def line_of(file: Path, number: int) -> str:
    """What errors call a line."""
    return f"{file.name}, line {number}"


class Ledger:
    """What is done, a JSON object a line; several processes may add to it at once.

    A process that is killed may leave half a line, which counts as not written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.file.read_bytes().split(b"\n") if self.file.is_file() else ():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
        return [row for row in rows if isinstance(row, dict)]

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """All of them in one write, which other processes cannot cut in two."""
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self.file.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read() == b"\n" else b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def fingerprint(files: Iterable[Path], words: str = "") -> str:
    """16 hex digits that change with any byte of the files, their order, or the words.

    Raises FlexEditError for a file that cannot be read.
    """
    total = hashlib.sha256(words.encode())
    for file in files:
        content = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
        except OSError as error:
            raise FlexEditError(f"{file} cannot be read ({error}).") from error
        total.update(content.digest())
    return total.hexdigest()[:16]


def weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))
