"""A VLLM in 8 and in 4 bits, by the real bitsandbytes, on the CPU."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexedit import masks
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, memory_by_part
from flexedit.models.vllm import quantised
from flexedit.request import EditRequest
from tests.tiny import TINY, make_tiny_folder

DRAW = torch.Generator().manual_seed(0)
SCENE = torch.rand(3, 40, 60, generator=DRAW)
REQUEST = EditRequest.create(SCENE, "remove this", masks.draw("circle", 40, 60))


def states(vllm, reply: str = "direct") -> torch.Tensor:
    return vllm.read(REQUEST, REQUEST.marked(), reply).hidden_states.float()


@pytest.fixture(scope="module", params=quantised.BITS)
def bits(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ModelFolder:
    """bitsandbytes packs 64 weights of a row together"""
    path = tmp_path_factory.mktemp("wide") / "tiny"
    return ModelFolder(make_tiny_folder(path, shape=replace(TINY, llm_width=64)))


@pytest.fixture(scope="module")
def vllm(folder, bits):
    return folder.load_vllm(bits=bits)


@pytest.mark.parametrize("reply", ["direct", "generate"])
def test_it_reads_nearly_as_the_whole_one(reply, vllm, folder):
    whole = folder.load_vllm()
    likeness = F.cosine_similarity(states(vllm), states(whole), dim=-1)
    assert likeness.min() > 0.9
    assert states(vllm, reply).isfinite().all()


def test_only_its_language_models_layers_are_smaller_and_lora_is_beside_them(vllm, bits):
    small = {name for name, one in vllm.named_modules() if f"{bits}bit" in type(one).__name__}
    assert small and all("language_model.layers" in name for name in small)
    whole = {name for name, one in vllm.named_modules() if type(one) is nn.Linear}
    assert any("vision_tower" in name for name in whole)
    assert not any(parameter.requires_grad for parameter in vllm.parameters())
    before = states(vllm)
    lora = [p for name, p in vllm.named_parameters() if "lora_B" in name]
    kept = [p.clone() for p in lora]
    for parameter in lora:
        parameter.data.zero_()
    assert (states(vllm) - before).abs().amax() > 1e-2
    for parameter, value in zip(lora, kept, strict=True):
        parameter.data.copy_(value)


def test_it_weighs_what_was_said_before(vllm, folder, bits):
    """Beside LoRA and the rows of the edit tokens, which are new"""
    found = 0
    for name, parameter in vllm.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            continue
        found += parameter.numel() * parameter.itemsize
        if getattr(parameter, "quant_state", None):  # in 4 bits
            found += 4 * parameter.quant_state.absmax.numel()
    for layer in vllm.modules():
        if (state := getattr(layer, "state", None)) is not None:  # in 8 bits
            scale = layer.weight.SCB if state.SCB is None else state.SCB
            found += 4 * scale.numel()
    rows = 32 * vllm.width * 4
    said = memory_by_part(folder, torch.float32, vllm_bits=bits)["vllm"]
    assert found == pytest.approx(said + rows, rel=0.01)


def test_other_numbers_of_bits_are_refused(folder):
    with pytest.raises(FlexEditError, match="in 3 bits a weight; choose 8 or 4"):
        folder.load_vllm(bits=3)


def test_without_bitsandbytes_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(FlexEditError, match="pip install bitsandbytes"):
        folder.load_vllm(bits=4)
