"""What parts weigh, said before any of their weights is read."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from flexedit.errors import FlexEditError
from flexedit.model_folder import CONFIG_FILE, ModelFolder, memory_by_part
from flexedit.pipeline import FlexEditPipeline
from flexedit.systems import PRESETS, preset
from tests.tiny import make_tiny_system, make_tiny_xl


def weight(part: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in part.parameters())


@pytest.mark.parametrize("system", [*PRESETS, "sdxl"])
def test_every_part_weighs_what_the_pipeline_loads(system, tmp_path):
    folder = make_tiny_xl(tmp_path) if system == "sdxl" else make_tiny_system(system, tmp_path)
    pipeline = FlexEditPipeline(folder, "cpu", torch.float16)
    pipeline.load()
    found = memory_by_part(folder, torch.float16)
    vllm, rows = found.pop("vllm", None), 0
    if vllm is not None:
        config = folder.config.vllm  # its edit tokens are new
        rows = config.num_edit_tokens * pipeline.vllm.width * torch.float16.itemsize
        assert weight(pipeline.vllm) == vllm + rows
    assert found == {name: weight(getattr(pipeline, name)) for name in found}
    missing = {"bridge", "clip", "interaction", "adapter", "unet", "vae"} - found.keys()
    assert all(name in ("clip", "interaction", "adapter") for name in missing)


@pytest.fixture
def full_size(tmp_path) -> ModelFolder:
    """FlexEdit-7B as the paper has it: its configs alone, no weights."""
    from diffusers import AutoencoderKL
    from transformers import CLIPConfig, CLIPVisionConfig, LlavaConfig

    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision = CLIPVisionConfig(**large, num_attention_heads=16, patch_size=14, projection_dim=768)
    clip = CLIPConfig(vision_config=vision.to_dict(), projection_dim=768)
    LlavaConfig().save_pretrained(tmp_path / "vllm")
    clip.save_pretrained(tmp_path / "clip")
    levels = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        AutoencoderKL(**levels, **blocks).save_config(tmp_path / "vae")
    sources = {part: {"folder": part} for part in ("vllm", "clip", "vae")}
    config = preset("flexedit", {"name": "flexedit-7b", "sources": sources})
    (tmp_path / CONFIG_FILE).write_text(config.to_json())
    return ModelFolder(tmp_path)


def test_a_model_of_seven_thousand_million_weights_is_weighed_from_its_configs(full_size):
    """Against the published numbers of parameters: LLaVA-1.5-7B, CLIP ViT-L/14's tower, SD1.5's
    VAE, and InstructPix2Pix's UNet, which has four more input channels than SD1.5's.
    """
    found = {name: size / 2 for name, size in memory_by_part(full_size).items()}
    assert found["vllm"] == pytest.approx(7.06e9, rel=0.01)
    assert found["clip"] == pytest.approx(304e6, rel=0.01)
    assert found["vae"] / 2 == pytest.approx(83.7e6, rel=0.01)
    assert found["unet"] == 859_532_484
    assert list(found) == ["vllm", "bridge", "clip", "adapter", "unet", "vae"]


def test_a_part_whose_config_cannot_be_read_is_named(full_size):
    file = Path(full_size.path / "vllm" / "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "never_heard_of"}))
    with pytest.raises(FlexEditError, match=r"vllm cannot be loaded .*never_heard_of"):
        memory_by_part(full_size)
