"""Checkpoints with exactly the published names, in small sizes; and in full size without values."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from flexedit.cli import main
from flexedit.convert import instructpix2pix
from flexedit.convert.instructpix2pix import PUBLISHED, Shape, convert_instructpix2pix
from flexedit.convert.sources import Weights
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.models.diffusion.conditioning import Conditioning
from flexedit.models.diffusion.unet import build_unet
from flexedit.models.parts import Reading
from flexedit.pipeline import FlexEditPipeline
from flexedit.systems import preset
from flexedit.training.batch import collate
from tests.tiny import TINY, XL_UNET, build_second_text
from tests.tiny_pipelines import make_tiny_pipeline

SCHEDULE = ["betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1"]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def swapped(name: str, table: dict[str, str]) -> str:
    for own, published in table.items():
        name = re.sub(rf"(^|(?<=\.)){re.escape(own)}(?=\.)", published, name)
    return name


def of_unet(name: str, names: set[str], layers: int) -> str:
    """A diffusers name of the UNet → that of latent diffusion, which counts blocks through."""
    name = swapped(name, RESNET if ".resnets." in name else {})
    inside = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name)
    if inside:
        way, block, kind, layer, rest = inside.groups()
        first, each = (1, layers + 1)
        number = each * int(block) + int(layer) + (first if way == "down" else 0)
        side = "input" if way == "down" else "output"
        return f"{side}_blocks.{number}.{int(kind == 'attentions')}.{rest}"
    between = re.match(r"(down|up)_blocks\.(\d+)\.\w+samplers\.0\.conv\.(\w+)", name)
    if between:
        way, block, rest = between[1], int(between[2]), between[3]
        if way == "down":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest}"
        attends = any(one.startswith(f"up_blocks.{block}.attentions") for one in names)
        return f"output_blocks.{(layers + 1) * block + layers}.{1 + attends}.conv.{rest}"
    return swapped(name, ENDS)


def of_vae(name: str, levels: int) -> str:
    name = swapped(name, ATTENTION if ".attentions." in name else {})
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda n: f"mid.block_{int(n[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"up_blocks\.(\d)", lambda n: f"up.{levels - 1 - int(n[1])}", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name).replace(".resnets.", ".block.")
    return re.sub(r"(up|down)samplers\.0", r"\1sample", name)


def in_published_names(unet: Any, vae: Any, text: Any) -> dict[str, torch.Tensor]:
    state, layers = unet.state_dict(), unet.config.layers_per_block
    found = {UNET + of_unet(name, set(state), layers): tensor for name, tensor in state.items()}
    levels = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        by_matrix = ".attentions." in name and tensor.ndim == 2  # there a convolution of 1 × 1
        found[VAE + of_vae(name, levels)] = tensor[:, :, None, None] if by_matrix else tensor
    for name, tensor in text.state_dict().items():
        found[f"{TEXT}text_model.{name.removeprefix('text_model.')}"] = tensor
    ids = torch.arange(text.config.max_position_embeddings)[None]
    found[f"{TEXT}text_model.embeddings.position_ids"] = ids
    return found | {name: torch.zeros(10) for name in SCHEDULE}


def with_averages(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Beside the UNet's own weights their averages, here twice as large."""
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): 2 * tensor
        for name, tensor in tensors.items()
        if name.startswith(UNET)
    }
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    return tensors | averages | counters


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """The diffusers folder of a small InstructPix2Pix."""
    return make_tiny_pipeline(tmp_path_factory.mktemp("pipeline"), in_channels=8)


def parts_of(pipeline: Path) -> tuple[Any, Any, Any]:
    return (
        UNet2DConditionModel.from_pretrained(pipeline / "unet"),
        AutoencoderKL.from_pretrained(pipeline / "vae"),
        CLIPTextModel.from_pretrained(pipeline / "text_encoder"),
    )


def shape_of(unet: Any, vae: Any, text: Any) -> Shape:
    return Shape(dict(vae.config), text.config.to_dict(), dict(unet.config))


@pytest.fixture(scope="module")
def parts(pipeline) -> tuple[Any, Any, Any]:
    return parts_of(pipeline)


@pytest.fixture(scope="module")
def tensors(parts) -> dict[str, torch.Tensor]:
    return in_published_names(*parts)


@pytest.fixture(scope="module")
def shape(parts) -> Shape:
    return shape_of(*parts)


def saved(tensors: dict[str, torch.Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({k: t.contiguous().clone() for k, t in tensors.items()}, file)
    else:
        torch.save({"state_dict": tensors, "global_step": 22000}, file)
    return file


@torch.no_grad()
def check(model: ModelFolder, parts: tuple[Any, Any, Any], factor: float = 1.0) -> None:
    """It has the weights of these parts, its UNet's times a factor."""
    unet, vae, text = parts
    draws = {name: factor * tensor for name, tensor in unet.state_dict().items()}
    found = model.load_unet().unet.state_dict()
    for name, tensor in draws.items():
        torch.testing.assert_close(found[name], tensor.half().float(), msg=name)
    own = model.load_vae().state_dict()
    assert own.keys() == vae.state_dict().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in vae.state_dict().items())
    reader = model.load_text()
    ids = reader.tokenizer("red", padding="max_length", max_length=reader.length)["input_ids"]
    states = text(torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(reader(["red"]), states)
    torch.testing.assert_close(model.load_bridge().null_edit, reader([""])[0], atol=1e-3, rtol=1e-3)


def test_a_diffusers_folder_becomes_a_model_that_needs_it_no_more(pipeline, parts, tmp_path):
    source = shutil.copytree(pipeline, tmp_path / "source")
    (source / "LICENSE").write_text("theirs")
    model = convert_instructpix2pix(source, tmp_path / "made")
    shutil.rmtree(source)
    check(model, parts)
    assert model.config.diffusion.prediction_type == "v_prediction"  # of the folder's scheduler
    assert "Open RAIL-M" in model.config.licences["InstructPix2Pix"]
    assert (model.path / "licences" / "checkpoint" / "LICENSE").read_text() == "theirs"
    edits = FlexEditPipeline(model, "cpu")
    picture = edits(collate([World(64)[0]]).request, num_steps=1).picture
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()


@torch.no_grad()
def test_its_unet_reads_the_noisy_latent_and_then_the_scenes(pipeline, parts, tmp_path):
    made = convert_instructpix2pix(pipeline, tmp_path / "made").load_unet()
    noisy, scene = torch.randn(2, 1, 4, 16, 16)
    f1, time = torch.randn(1, 8, TINY.clip_width), torch.tensor([500])
    expected = parts[0](torch.cat([noisy, scene], 1), time, f1).sample
    found = made(noisy, time, Conditioning(f1, None, torch.zeros(1), scene))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-3)  # in half precision


def make_xl(folder: Path) -> Path:
    """The diffusers folder of a small InstructPix2Pix of SDXL's kind."""
    pipeline = make_tiny_pipeline(folder, in_channels=8, **XL_UNET)
    build_second_text(folder / "clip", pipeline / "text_encoder_2", pipeline / "tokenizer_2")
    return pipeline


@torch.no_grad()
def test_one_of_sdxls_kind_comes_with_both_its_text_encoders(tmp_path):
    """It draws what diffusers' UNet draws of an instruction, as diffusers' pipeline reads it."""
    source = make_xl(tmp_path)
    reads = [
        kind.from_pretrained(source / name)
        for kind, name in (
            (CLIPTextModel, "text_encoder"),
            (CLIPTextModelWithProjection, "text_encoder_2"),
        )
    ]
    unet = UNet2DConditionModel.from_pretrained(source / "unet")
    ids = AutoTokenizer.from_pretrained(source / "tokenizer_2")(
        "red", padding="max_length", max_length=TINY.text_length, return_tensors="pt"
    )["input_ids"]
    model = convert_instructpix2pix(source, tmp_path / "made")
    shutil.rmtree(source)
    said = [one(ids, output_hidden_states=True) for one in reads]
    f1 = torch.cat([one.hidden_states[-2] for one in said], dim=-1)
    pooled = said[1].text_embeds
    text = model.load_bridge()(Reading(("red",), ("",), ("",), None))
    torch.testing.assert_close(text.e, f1)
    torch.testing.assert_close(model.load_bridge().pooler.pooled(["red"]), pooled)

    noisy, scene = torch.randn(2, 1, 4, 16, 16)
    time, sizes = torch.tensor([500]), torch.tensor([[64, 48, 0, 0, 64, 48]])
    besides = {"text_embeds": pooled, "time_ids": sizes}
    expected = unet(torch.cat([noisy, scene], 1), time, f1, added_cond_kwargs=besides).sample
    conditioning = Conditioning(f1, None, torch.zeros(1), scene, None, pooled, sizes)
    found = model.load_unet()(noisy, time, conditioning)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-3)  # in half precision

    assert model.config.sampling.size == 768 and "RAIL++" in str(model.config.licences)
    picture = FlexEditPipeline(model, "cpu")(collate([World(64)[0]]).request, num_steps=1).picture
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()
    assert main(["info", str(model.path)]) == 0


@pytest.mark.parametrize("name", ["some.ckpt", "some.safetensors"])
@pytest.mark.parametrize("averaged", [False, True])
def test_a_file_of_either_kind_with_averaged_weights_or_without(
    averaged, name, pipeline, tensors, parts, shape, tmp_path
):
    file = saved(with_averages(tensors) if averaged else tensors, tmp_path / name)
    tokenizer = pipeline / "tokenizer"
    model = convert_instructpix2pix(file, tmp_path / "made", None, tokenizer, shape)
    check(model, parts, factor=2.0 if averaged else 1.0)


def test_of_a_file_with_a_unet_alone_the_rest_is_named(pipeline, tensors, parts, shape, tmp_path):
    alone = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET)}
    file = saved(alone, tmp_path / "unet.safetensors")
    clip = pipeline.parent / "clip"
    with pytest.raises(FlexEditError, match=r"unet\.safetensors holds no VAE\. Name one by --vae"):
        convert_instructpix2pix(file, tmp_path / "made", None, clip, shape)
    model = convert_instructpix2pix(file, tmp_path / "made", pipeline / "vae", clip, shape)
    check(model, parts)


def test_a_vae_under_its_former_names_is_read(pipeline, parts, tmp_path):
    source = shutil.copytree(pipeline, tmp_path / "source")
    former = {now: before for before, now in instructpix2pix.NOW.items()}
    state = {swapped(name, former): t for name, t in parts[1].state_dict().items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in state
    (source / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, source / "vae" / "diffusion_pytorch_model.bin")
    check(convert_instructpix2pix(source, tmp_path / "made"), parts)


def test_in_full_size_every_published_tensor_has_its_place(monkeypatch, tmp_path):
    config = preset("instructpix2pix", {"name": "full", "sources": {}}).unet
    with torch.device("meta"):
        unet, vae = build_unet(config), AutoencoderKL.from_config(dict(PUBLISHED.vae))
        text = CLIPTextModel(CLIPTextConfig(**PUBLISHED.text))
    tensors = with_averages(in_published_names(unet, vae, text))
    counts = [sum(name.startswith(kind) for name in tensors) for kind in (UNET, VAE, "model_ema.")]
    assert counts == [686, 248, 688]  # as they were published
    assert tensors[f"{UNET}input_blocks.0.0.weight"].shape == (320, 8, 3, 3)
    monkeypatch.setattr(Weights, "read", lambda path, **_: Weights.of(tensors, str(path)))
    found = instructpix2pix.parts_of_file(tmp_path, PUBLISHED, tmp_path, None)
    assert list(found[1]) == ["text_encoder"]
    of_text = found[1]["text_encoder"]
    for part, own in zip((found[0], of_text, found[2]), (unet, text, vae), strict=True):
        shapes = {name.removeprefix("text_model."): t.shape for name, t in part.tensors.items()}
        wanted = {name.removeprefix("text_model."): t.shape for name, t in own.state_dict().items()}
        assert shapes == wanted


def test_an_interrupted_conversion_goes_on(pipeline, parts, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(instructpix2pix, "write_unet", interrupted)
        convert_instructpix2pix(pipeline, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    vae = tmp_path / "made.unfinished" / "vae" / "diffusion_pytorch_model.safetensors"
    written = vae.stat().st_mtime_ns
    model = convert_instructpix2pix(pipeline, tmp_path / "made")
    check(model, parts)
    assert (model.path / "vae" / vae.name).stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


# Bad input


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"control_model.zero": torch.ones(1)}, r"unexpected control_model\.zero"),
        ({f"{UNET}out.9.weight": torch.ones(1)}, "has 1 unexpected tensors beside model.diff"),
        ({f"{VAE}encoder.extra": torch.ones(1)}, "has 1 unexpected tensors beside first_stage"),
        ({f"{UNET}out.2.bias": None}, r"lacks unet\.conv_out\.bias"),
        ({f"{VAE}decoder.conv_in.bias": None}, r"lacks decoder\.conv_in\.bias"),
        ({f"{TEXT}text_model.final_layer_norm.bias": None}, "lacks .*final_layer_norm"),
        ({f"{UNET}out.2.bias": torch.ones(3)}, r"unet\.conv_out\.bias has shape \(3,\)"),
        ({f"{UNET}input_blocks.0.0.weight": torch.ones(32, 4, 3, 3)}, "reads 4 channels, which dr"),
        ({f"{UNET}input_blocks.0.0.weight": torch.ones(32, 9, 3, 3)}, "reads 9 channels, which fi"),
        ({f"{UNET}input_blocks.0.0.weight": None}, "lacks model.diffusion_model.input_blocks.0.0"),
        ({"model_ema.decay": torch.ones(())}, "lacks model_ema.diffusion_model"),
        ({"conditioner.embedders.0.x": torch.ones(1)}, "SDXL's kind, of which folders alone"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_nothing_is_left_behind(
    change, complaint, pipeline, tensors, shape, tmp_path
):
    changed = {name: t for name, t in (tensors | change).items() if t is not None}
    file = saved(changed, tmp_path / "some.ckpt")
    with pytest.raises(FlexEditError, match=complaint):
        convert_instructpix2pix(file, tmp_path / "made", None, pipeline / "tokenizer", shape)
    assert [path.name for path in tmp_path.iterdir()] == ["some.ckpt"]


@pytest.mark.parametrize(("channels", "kind"), [(4, "from words alone"), (9, "inpainting")])
def test_a_pipeline_of_another_kind_is_refused(channels, kind, tmp_path):
    pipeline = make_tiny_pipeline(tmp_path, in_channels=channels)
    with pytest.raises(FlexEditError, match=f"reads {channels} channels.*{kind}"):
        convert_instructpix2pix(pipeline, tmp_path / "made")


@pytest.mark.parametrize(
    ("unet", "reads"),
    [
        ({"class_embed_type": "timestep"}, "timestep"),
        ({"num_class_embeds": 3}, "the number of a class"),
        ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 8}, "text_proj"),
        ({"addition_embed_type": "text"}, "text"),
    ],
)
def test_a_unet_that_reads_what_no_edit_has_is_refused(unet, reads, tmp_path):
    pipeline = make_tiny_pipeline(tmp_path / "parts", in_channels=8, **unet)
    with pytest.raises(FlexEditError, match=f"8 channels in and 4 out, and reads {reads} besides"):
        convert_instructpix2pix(pipeline, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_folder_without_its_second_text_encoder_is_refused(tmp_path):
    source = make_xl(tmp_path)
    shutil.rmtree(source / "text_encoder_2")
    with pytest.raises(FlexEditError, match="text_encoder_2"):
        convert_instructpix2pix(source, tmp_path / "made")


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("unet", {"norm_num_groups": 0}, "unet cannot be loaded"),
        ("text_encoder", {"hidden_act": "nope"}, "text_encoder cannot be loaded"),
        ("text_encoder", {"num_attention_heads": 7}, "text_encoder cannot be loaded"),
        ("vae", {"norm_num_groups": 0}, "vae cannot be loaded"),
    ],
)
def test_settings_that_describe_no_part_are_told(part, change, complaint, pipeline, tmp_path):
    source = shutil.copytree(pipeline, tmp_path / "source")
    config = source / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(FlexEditError, match=complaint):
        convert_instructpix2pix(source, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_missing_is_named_with_where_it_is_published(pipeline, tmp_path):
    file = saved({}, tmp_path / "some.ckpt")
    with pytest.raises(FlexEditError, match=r"--text-encoder is missing: .*comfy/sd1_tokenizer"):
        convert_instructpix2pix(file, tmp_path / "made")
    source = shutil.copytree(pipeline, tmp_path / "source")
    shutil.rmtree(source / "tokenizer")
    with pytest.raises(FlexEditError, match=r"no tokenizer \(tokenizer\.json or vocab\.json\)"):
        convert_instructpix2pix(source, tmp_path / "made")


def test_the_command_line_converts(pipeline, tmp_path, capsys):
    words = ["--checkpoint", pipeline, "--out", tmp_path / "made", "--vae", pipeline / "vae"]
    assert main(["convert", "instructpix2pix", *map(str, words)]) == 0
    assert f"out: {tmp_path / 'made'}" in capsys.readouterr().out
    assert ModelFolder(tmp_path / "made").config.vllm is None
