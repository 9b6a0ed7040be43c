"""Cancel ends whatever a node is at, and leaves nothing half made behind."""

from pathlib import Path

import pytest

from tests.resolve.tiny_sams import make_tiny_sam
from tools.comfyui import inside

KINDS = ("prefill", "generation", "expressive", "classic", "SAM", "loading", "Crop and Composite")


@pytest.fixture(scope="module")
def steps(tiny, tmp_path_factory) -> dict:
    sam = tmp_path_factory.mktemp("sam") / "sam"
    make_tiny_sam("sam", sam)
    return inside.run(Path(inside.__file__).with_name("cancel.py"), "steps", tiny, sam, "640")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_node_stops_and_works_the_next_time(kind, steps):
    figures = steps[kind]
    assert figures["looks"] > 200  # not once a token alone
    assert figures["raised"] and figures["more looks"] < 5  # some close what they opened
    assert figures["same again"]
