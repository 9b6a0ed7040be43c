"""What the Comfy registry reads of the pack."""

import re
import sys
from pathlib import Path

from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, COMFY = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
RAW = PROJECT["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"


def test_name_and_version_are_as_the_registry_wants_them():
    assert re.fullmatch(r"[a-z]+([-_.]?[a-z0-9]+)*", PROJECT["name"])
    assert "comfy" not in PROJECT["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert COMFY["PublisherId"] and COMFY["DisplayName"]


def test_every_address_is_of_one_repository():
    repository = PROJECT["urls"]["Repository"]
    assert repository.startswith("https://github.com/")
    assert all(url.startswith(repository) for url in PROJECT["urls"].values())
    assert {"Repository", "Documentation", "Issues"} <= set(PROJECT["urls"])


def picture(key: str) -> Image.Image:
    assert COMFY[key].startswith(RAW)
    return Image.open(ROOT / COMFY[key].removeprefix(RAW))


def test_the_icon_is_square_and_small_enough():
    icon = picture("Icon")
    assert icon.format == "PNG" and icon.width == icon.height <= 400


def test_the_banner_is_21_to_9():
    banner = picture("Banner")
    assert banner.format == "PNG" and banner.width * 9 == banner.height * 21


def test_one_minimum_of_comfyui_is_named_everywhere():
    minimum = COMFY["requires-comfyui"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", minimum)
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert minimum.removeprefix(">=") in text
