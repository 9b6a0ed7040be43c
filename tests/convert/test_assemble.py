import dataclasses
import gc
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from flexedit.cli import main
from flexedit.convert.assemble import assemble
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.models.diffusion.conditioning import Conditioning
from flexedit.models.diffusion.sampling import DiffusionConfig
from flexedit.pipeline import FlexEditPipeline
from flexedit.systems import PRESETS
from flexedit.training.batch import collate
from flexedit.training.pretrain.parts import build_vllm
from tests.tiny import POOLED, TEXTS, TINY, XL_UNET, build_second_text
from tests.tiny_pipelines import make_tiny_pipeline
from tests.tiny_vllms import make_tiny_vllm


def parts(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "pipeline", folder / "clip", folder / "vllm"


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """A pipeline, a CLIP and a LLaVA"""
    folder = tmp_path_factory.mktemp("others")
    make_tiny_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def model(others) -> ModelFolder:
    return assemble(*parts(others), others / "made", size=64)


def test_a_model_of_others_parts_is_whole(model):
    config = model.config
    assert (config.name, config.vllm.num_edit_tokens, config.sampling.size) == ("made", 32, 64)
    assert config.bridge.num_embeddings == TINY.text_length
    assert config.unet["in_channels"] == 8
    for part in ("vllm", "bridge", "clip", "adapter", "unet", "vae", "text"):
        getattr(model, f"load_{part}")()
    assert {path.name for path in model.path.iterdir()} == {
        "vllm", "clip", "vae", "flexedit.json", "flexedit.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("system", [name for name in PRESETS if name != "flexedit"])
def test_any_system_can_be_made_of_them(system, others):
    pipeline, clip, vllm = parts(others)
    reads = None if system == "instructpix2pix" else vllm
    model = assemble(pipeline, clip, reads, others / system, size=64, system=system)
    FlexEditPipeline(model, "cpu").load()
    wrong = vllm if reads is None else None
    with pytest.raises(FlexEditError, match=f"{system} (needs a|has no) VLLM"):
        assemble(pipeline, clip, wrong, others / "wrong", size=64, system=system)


@torch.no_grad()
def test_sdxl_comes_with_both_its_text_encoders(tmp_path):
    """e∅ is what the last layers but one of both say of ""; untrained it draws what SDXL drew."""
    pipeline = make_tiny_pipeline(tmp_path, **XL_UNET)
    second = pipeline / "text_encoder_2"
    build_second_text(tmp_path / "clip", second, pipeline / "tokenizer_2")
    model = assemble(*parts(tmp_path), tmp_path / "made", size=64)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "clip")(
        "", padding="max_length", max_length=TINY.text_length, return_tensors="pt"
    )["input_ids"]
    said = [
        encoder.from_pretrained(folder)(tokens, output_hidden_states=True)
        for encoder, folder in (
            (CLIPTextModel, pipeline / "text_encoder"),
            (CLIPTextModelWithProjection, second),
        )
    ]
    bridge = model.load_bridge()
    null = bridge.null(1).e
    wanted = torch.cat([one.hidden_states[-2] for one in said], dim=-1)
    torch.testing.assert_close(null, wanted, atol=2e-3, rtol=1e-2)  # kept in half precision
    torch.testing.assert_close(bridge.pooler.pooled([""]), said[1].text_embeds)

    original = UNet2DConditionModel.from_pretrained(pipeline / "unet").half().float()
    noisy, scene, _, time = forward(original)
    f1, pooled = torch.randn(2, 8, XL_UNET["cross_attention_dim"]), torch.randn(2, POOLED)
    sizes = torch.tensor([[64, 48, 0, 0, 64, 48]] * 2)
    besides = {"text_embeds": pooled, "time_ids": sizes}
    expected = original(noisy, time, f1, added_cond_kwargs=besides).sample
    conditioning = Conditioning(f1, None, torch.zeros(2), scene, None, pooled, sizes)
    found = model.load_unet()(noisy, time, conditioning)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    shutil.rmtree(second)
    with pytest.raises(FlexEditError, match="text_encoder_2"):
        assemble(*parts(tmp_path), tmp_path / "lacking", size=64)


def test_the_noise_is_that_of_the_pipelines_scheduler(model):
    assert model.config.diffusion == DiffusionConfig("v_prediction", 0.001, 0.02, "linear", 1000)


def forward(unet, tokens: int = 8) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    noisy, scene = torch.randn(2, 2, 4, 16, 16)
    f1 = torch.randn(2, tokens, TINY.clip_width)
    time = torch.tensor([10, 700])
    return noisy, scene, f1, time


@torch.no_grad()
def test_untrained_it_draws_what_the_pipeline_drew(others, model):
    """The scene's latent is not heard yet."""
    original = UNet2DConditionModel.from_pretrained(others / "pipeline" / "unet").half().float()
    noisy, scene, f1, time = forward(original)
    expected = original(noisy, time, f1).sample
    unet = model.load_unet()
    for latent in (scene, torch.zeros_like(scene)):
        found = unet(noisy, time, Conditioning(f1, None, torch.zeros(2), latent))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_subjects_layers_and_the_null_edit_begin_as_the_unets_and_clips_own(model):
    unet = model.load_unet().unet
    for name, layer in model.load_adapter().subject.items():
        assert torch.equal(layer.to_k.weight, unet.get_submodule(name).to_k.weight)
        assert torch.equal(layer.to_v.weight, unet.get_submodule(name).to_v.weight)
    text = model.load_text()([""])[0]
    torch.testing.assert_close(model.load_bridge().null_edit, text, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_pipeline_that_knows_the_scene_keeps_what_it_knows(tmp_path):
    make_tiny_pipeline(tmp_path, in_channels=8)
    model = assemble(*parts(tmp_path), tmp_path / "made")
    original = UNet2DConditionModel.from_pretrained(tmp_path / "pipeline" / "unet").half().float()
    noisy, scene, f1, time = forward(original)
    expected = original(torch.cat([noisy, scene], 1), time, f1).sample
    found = model.load_unet()(noisy, time, Conditioning(f1, None, torch.zeros(2), scene))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_it_edits(model):
    pipeline = FlexEditPipeline(model, "cpu")
    picture = pipeline(collate([World(64)[0]]).request, num_steps=1).picture
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()


@pytest.mark.parametrize("reply", ["direct", "generate"])
def test_a_vllm_of_another_family_can_stand_in_llavas_place(reply, others, tmp_path):
    qwen = make_tiny_vllm("qwen3_vl", tmp_path / "qwen")
    pipeline, clip, _ = parts(others)
    model = assemble(pipeline, clip, qwen, tmp_path / "made", size=64)
    assert model.config.vllm.type == "qwen3_vl"
    pipeline = FlexEditPipeline(model, "cpu")
    edited = pipeline(collate([World(64)[0]]).request, reply=reply, num_steps=1)
    assert edited.picture.isfinite().all()


def test_another_clips_tower_can_be_looked_through(others, tmp_path):
    """As ViT-H beside Stable Diffusion 1: other widths, another activation, no text tower."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "projection_dim": 40, "image_size": 28}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
    tower = CLIPVisionConfig(**sizes, **layers, hidden_act="gelu")
    CLIPVisionModelWithProjection(tower).save_pretrained(tmp_path / "tower")
    CLIPImageProcessor().save_pretrained(tmp_path / "tower")
    how = {"size": 64, "image_encoder": tmp_path / "tower"}
    model = assemble(*parts(others), tmp_path / "made", **how)
    assert model.config.adapter.clip_width == 40 and "text_encoder" in model.config.sources
    text = model.load_text()([""])[0]
    torch.testing.assert_close(model.load_bridge().null_edit, text, rtol=1e-3, atol=1e-3)
    edited = FlexEditPipeline(model, "cpu")(collate([World(64)[0]]).request, num_steps=1)
    assert edited.picture.isfinite().all()

    pipeline, clip, _ = parts(others)
    with pytest.raises(FlexEditError, match="sees nothing through CLIP"):
        assemble(pipeline, clip, None, tmp_path / "blind", system="instructpix2pix", **how)


def test_other_formats_of_the_weights_stay_behind(others, tmp_path):
    shutil.copytree(others, tmp_path / "others")
    vllm = tmp_path / "others" / "vllm"
    (vllm / "pytorch_model.bin").write_text("much")
    shutil.copy(vllm / "model.safetensors", vllm / "model.fp16.safetensors")
    made = assemble(*parts(tmp_path / "others"), tmp_path / "made")
    before, after = ({file.name for file in one.iterdir()} for one in (vllm, made.path / "vllm"))
    assert before - after == {"pytorch_model.bin", "model.fp16.safetensors"}


# Bad input


def refused(folder: Path, out: Path, complaint: str) -> None:
    with pytest.raises(FlexEditError, match=complaint):
        assemble(*parts(folder), out)
    assert not list(out.parent.glob("made*"))


@pytest.mark.parametrize(
    ("unet", "complaint"),
    [
        (
            {"in_channels": 9},
            "9 channels in and 4 out. FlexEdit drives UNets as Stable Diffusion 1's",
        ),
        ({"out_channels": 8}, "4 channels in and 8 out"),
        ({"in_channels": 16, "out_channels": 16}, "latent channels is 4, but unet.out_channels"),
        ({"class_embed_type": "timestep"}, "and reads timestep besides"),
        ({"num_class_embeds": 3}, "and reads the number of a class besides"),
        ({"cross_attention_dim": 64}, "bridge.width is 32 but the UNet reads a context 64 wide"),
    ],
)
def test_a_unet_that_flexedit_cannot_drive_is_refused(unet, complaint, tmp_path):
    make_tiny_pipeline(tmp_path, **unet)
    refused(tmp_path, tmp_path / "made", complaint)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("pipeline/unet", "unet is not a model folder: it has no config"),
        ("pipeline/scheduler", "scheduler is not a model folder"),
        ("vllm", "vllm is not a model folder"),
        ("clip/model.safetensors", "clip cannot be loaded"),
        ("vllm/model.safetensors", "vllm cannot be loaded"),
        ("pipeline/unet/diffusion_pytorch_model.safetensors", "unet cannot be loaded"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_left_behind(missing, complaint, others, tmp_path):
    shutil.copytree(others, tmp_path / "others")
    path = tmp_path / "others" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(tmp_path / "others", tmp_path / "made", complaint)


def test_another_class_of_vllm_is_refused(others, tmp_path):
    shutil.copytree(others, tmp_path / "others")
    shutil.copytree(others / "clip", tmp_path / "others" / "vllm", dirs_exist_ok=True)
    refused(tmp_path / "others", tmp_path / "made", "holds a clip, which FlexEdit cannot give edit")


@pytest.mark.parametrize(
    ("part", "says", "complaint"),
    [
        ("scheduler/scheduler_config", {"prediction_type": "flow"}, "'flow'; choose one of"),
        ("scheduler/scheduler_config", {"trained_betas": [0.1]}, "a noise schedule of its own"),
        ("scheduler/scheduler_config", {"sigma_data": 1.0}, "a noise schedule of its own"),
        (
            "text_encoder/config",
            {"num_hidden_layers": 23},
            "num_hidden_layers 1, but that in .* 23",
        ),
    ],
)
def test_a_pipeline_that_differs_where_flexedit_cannot_follow_is_refused(
    part, says, complaint, others, tmp_path
):
    shutil.copytree(others, tmp_path / "others")
    file = tmp_path / "others" / "pipeline" / f"{part}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | says))
    refused(tmp_path / "others", tmp_path / "made", complaint)


def test_a_size_that_the_vae_would_pad_is_refused(others, tmp_path):
    with pytest.raises(FlexEditError, match="The size is 70; choose a multiple of 4"):
        assemble(*parts(others), tmp_path / "made", size=70)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_overwritten(others, tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(FlexEditError, match="here is there already"):
        assemble(*parts(others), tmp_path / "here")


def test_the_command_line_assembles(others, tmp_path, capsys):
    pipeline, clip, vllm = parts(others)
    words = ["--pipeline", pipeline, "--clip", clip, "--vllm", vllm, "--out", tmp_path / "made"]
    assert main(["assemble", *map(str, words), "--size", "64"]) == 0
    assert f"out: {tmp_path / 'made'}" in capsys.readouterr().out
    assert ModelFolder(tmp_path / "made").config.sampling.size == 64


def peak_of(run: Callable[[], object]) -> int:
    """The most memory of its own, in bytes, that this process had more while it ran"""

    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(seen) - seen[0]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells it")
def test_assembling_takes_little_more_memory_than_the_largest_part(tmp_path):
    pipeline = make_tiny_pipeline(tmp_path)
    shape = dataclasses.replace(TINY, llm_width=1024, llm_layers=10)
    shutil.rmtree(tmp_path / "vllm")
    build_vllm(shape, TEXTS, tmp_path / "vllm")
    file = tmp_path / "vllm" / "model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})
    config = tmp_path / "vllm" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    largest = file.stat().st_size
    assert largest > 200e6
    del halves
    gc.collect()
    words = (pipeline, tmp_path / "clip", tmp_path / "vllm", tmp_path / "model", 64)
    assert peak_of(lambda: assemble(*words)) < 1.3 * largest
