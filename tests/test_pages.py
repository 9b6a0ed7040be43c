"""Each page is followed from its first command to its last, with tiny parts where it names others'.

Two have tests of their own: training.md in tests/training/test_page.py, batch.md in
tests/comfyui/test_farm.py.
"""

import dataclasses
import json
import shlex
from functools import partial

import numpy as np
import pytest
from PIL import Image
from skimage import data

from flexedit.convert import instructpix2pix, mgie, smartedit
from flexedit.data.world import World, write
from flexedit.model_folder import EMBEDDED, PRETRAINED, ModelFolder
from flexedit.training.recipe import mini_recipe
from tests import released
from tests.convert.test_instructpix2pix import in_published_names, parts_of, saved, shape_of
from tests.data.readers.made import HEIGHT, WIDTH, where
from tests.data.readers.test_magicbrush import magicbrush_row, write_parquet
from tests.following import follow
from tests.pages import ROOT
from tests.tiny import TINY
from tests.tiny_pipelines import make_tiny_pipeline
from tests.tiny_vllms import make_tiny_vllm
from tests.training.mixed import BOX, make_data

FEW = "--single 1 --multi 1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The present folder, with a photo of one's own"""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.coffee()).save("photo.jpg")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_pages_work_word_for_word(page, here):
    follow(page, kept={"json": "samples/edits.jsonl"})
    assert list(here.glob("*.png"))


def test_the_page_of_data_shows_and_counts_a_mixture_of_released_sets(here):
    make_data(here)
    (here / "refcoco").mkdir()
    for name, made in (
        ("refcoco/refs(unc).p", "refs.p"),
        ("refcoco/instances.json", "instances.json"),
        ("train2014", "train"),
        ("train2017", "train"),
        ("llava_instruct_150k.json", "llava.json"),
    ):
        (here / name).symlink_to(here / made)
    (here / "stuff").mkdir()
    classes = np.where(where(BOX), 0, 255).astype(np.uint8)
    for number in range(6):
        Image.fromarray(classes).save(here / "stuff" / f"{number}.png")
        Image.open(here / "train" / f"{number}.png").save(here / "train" / f"{number}.jpg")
    (here / "labels.txt").write_text("0: unlabeled\n1: cup\n")
    rows = [magicbrush_row(number) for number in range(4)]
    write_parquet(rows, here / "magicbrush" / "0.parquet")
    follow("docs/data.md", {"--count 1000": "--count 40"}, {"yaml": "mixture.yaml"})
    with Image.open("sheet.jpg") as sheet:
        assert sheet.width > WIDTH and sheet.height > HEIGHT


def test_the_page_of_systems_converts_edits_assembles_and_trains(here, monkeypatch):
    """Of files in the makers' form; in small sizes, which the commands do not know."""
    sources = released.write_smartedit(here / "smartedit")
    sources.options |= released.write_delta(here / "smartedit", sources.tensors["llava"])
    others = released.write_mgie(here / "mgie").options
    own = make_tiny_pipeline(here / "own", in_channels=8)
    parts = parts_of(own)
    saved(in_published_names(*parts), here / "MagicBrush-epoch-52-step-4999.ckpt")
    make_tiny_pipeline(here / "stable")
    make_tiny_vllm("smolvlm", here / "SmolVLM-500M")
    write(World(64, seed=7), range(8), here / "edits")
    Image.open("photo.jpg").resize((96, 64)).save("photo.jpg")
    Image.fromarray(where(BOX)).resize((96, 64)).save("scribble.png")
    for name, made in {
        "SmartEdit-7B": sources.options["smartedit"],
        "LLaVA-Lightning-7B-delta-v1-1": sources.options["llava_delta"],
        "llama-7b": sources.options["llama"],
        "clip-vit-large-patch14": sources.options["clip"],
        "stable-diffusion-v1-5/vae": sources.options["vae"],
        "mgie_7b": others["mgie"],
        "LLaVA-7B-v1": others["llava"],
        "instruct-pix2pix": own,
        "ComfyUI/comfy/sd1_tokenizer": own / "tokenizer",
        "sd15": here / "stable" / "pipeline",
        "clip": here / "stable" / "clip",
        "llava": here / "stable" / "vllm",
    }.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).symlink_to(made)
    for of, small in (
        (smartedit, {"settings": released.SMARTEDIT}),
        (mgie, {"settings": released.MGIE}),
        (instructpix2pix, {"shape": shape_of(*parts)}),
    ):
        name = f"convert_{of.__name__.rpartition('.')[2]}"
        monkeypatch.setattr(of, name, partial(getattr(of, name), **small))
    exchanged = {
        "edit --model": "edit --steps 2 --model",
        "--out my-smartedit": "--out my-smartedit --size 64",
        "train own": "train own --steps 2 --batch 2",
    }
    assert len(follow("docs/systems.md", exchanged)) == 9
    assert {path.name for path in (here / "models").iterdir()} == {
        "smartedit-7b", "mgie-7b", "instructpix2pix", "magicbrush"
    }  # fmt: skip
    assert Image.open("edited.png").size == Image.open("winter.png").size == (96, 64)


@pytest.mark.slow
def test_the_page_of_the_benchmark_builds_runs_and_compares(here):
    """What one reviews in a browser, tests/benchmark/test_pages.py does."""
    exchanged = {
        "bench build --out out/benchmark/cases": f"bench build --out out/benchmark/cases {FEW}",
        "bench build --out fsmi-edit": f"bench build --out fsmi-edit {FEW}",
        "bench review fsmi-edit": "bench review --help",
        "results other-results": "results out/benchmark",
        "compare A B": "compare results my-report",
    }
    follow("docs/benchmark.md", exchanged)
    content = json.loads((here / "my-report" / "report.json").read_text())
    assert content["failed"] == []
    assert {row["system"] for row in content["rows"]} == {"my-pictures", "scene"}


def test_the_next_model_is_measured_beside_the_embedded_one_and_trained_on(here):
    (here / "flexedit").mkdir()
    (here / "flexedit" / "pretrained").symlink_to(PRETRAINED)
    (here / "studies").symlink_to(ROOT / "studies")
    exchanged = {
        "--single 600 --multi 400": FEW,
        "rows: 8192, reuse: 8": "rows: 16, reuse: 1",
        "--set stages.joint.train.steps=12000": " ".join(
            f"--set stages.{stage}.train.{setting}"
            for stage in ("joint", "decoder")
            for setting in ("steps=1", "batch_size=2", "warmup=1")
        ),
    }
    assert len(follow("studies/next_mini/README.md", exchanged)) == 3
    report = json.loads((here / "crops-results" / "report.json").read_text())
    assert [row["name"] for row in report["systems"]] == [EMBEDDED, "model"]
    config = ModelFolder(here / "runs" / "next-mini" / EMBEDDED).config
    assert config == ModelFolder(ROOT / "studies" / "next_mini" / "model").config


def test_the_card_of_the_model_measures_it_and_trains_it_again_and_further(here):
    """With few cases and steps, and from nothing in tiny sizes."""
    (here / "flexedit").mkdir()
    (here / "flexedit" / "pretrained").symlink_to(PRETRAINED)
    short = [
        f"--set stages.{stage}.train.{setting}"
        for stage in mini_recipe().stages
        for setting in ("steps=1", "batch_size=2", "warmup=1")
    ]
    tiny = [
        "--set " + shlex.quote(f"shape.{name}={json.dumps(size)}")
        for name, size in dataclasses.asdict(TINY).items()
    ]
    exchanged = {
        "--single 600 --multi 400": FEW,
        "--out runs/mini": " ".join(["--out runs/mini --set num_texts=50", *short, *tiny]),
        "--out runs/more": " ".join(["--out runs/more", *short]),
    }
    assert len(follow("MODEL_CARD.md", exchanged)) == 4
    report = json.loads((here / "out" / "benchmark" / "report.json").read_text())
    assert {row["system"] for row in report["rows"]} == {
        EMBEDDED, f"{EMBEDDED}-composite", f"{EMBEDDED}-generate", "round-trip"
    }  # fmt: skip
    again, further = (ModelFolder(here / "runs" / name / EMBEDDED) for name in ("mini", "more"))
    assert again.config.bridge.width == TINY.clip_width
    assert further.config == ModelFolder(PRETRAINED / EMBEDDED).config
