import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlavaForConditionalGeneration

from flexedit import prompts
from flexedit.model_folder import WEIGHTS_FILE, ModelFolder, load_vllm, save_model_folder
from flexedit.models.vllm import lora
from flexedit.models.vllm.base import VLLM, Sequences, VLLMConfig
from flexedit.models.vllm.pictures import Pictures
from tests.tiny import TINY

TEXTS = [prompts.prompt("remove this"), prompts.prompt("add this here", with_subject=True)]
REPLIES = ["The masks means 'turtle'", prompts.GENERIC_REPLY]


@pytest.fixture(params=["tied", "untied"])
def folder(request, tiny, tmp_path) -> Path:
    path = shutil.copytree(tiny, tmp_path / "model")
    if request.param == "untied":
        config = AutoConfig.from_pretrained(path / "vllm")
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
        LlavaForConditionalGeneration(config).save_pretrained(path / "vllm")
    return path


def stock(folder: Path) -> VLLM:
    torch.manual_seed(0)
    return load_vllm(folder / "vllm", VLLMConfig(32))


def pictures(vllm: VLLM) -> Pictures:
    draw = torch.Generator().manual_seed(1)
    return vllm.squares(torch.randn(3, 3, TINY.size, TINY.size, generator=draw))


def tokens(vllm: VLLM) -> Sequences:
    return vllm.tokenize(TEXTS, pictures(vllm), REPLIES, end=True)


def outputs(vllm: VLLM) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of everything, and the logits that predict the next token."""
    with torch.no_grad():
        states = vllm.states(tokens(vllm), pictures(vllm))
        return states, vllm.model.get_output_embeddings()(states)


def train(vllm: VLLM, folder: Path, steps: int = 4) -> list[float]:
    """Replies, and something that the states at the edit tokens are to become."""
    config = ModelFolder(folder).config.vllm.lora
    optimizer = torch.optim.Adam(lora.attach(vllm, config), lr=3e-2)
    losses = []
    for _ in range(steps):
        states = vllm.states(tokens(vllm), pictures(vllm))
        loss = vllm.reply_loss(tokens(vllm), states).sum()
        loss = loss + vllm.edit_states(tokens(vllm), states).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_what_was_trained_is_what_is_loaded(folder):
    vllm = stock(folder)
    before = outputs(vllm)
    losses = train(vllm, folder)
    assert losses[-1] < losses[0]
    trained = outputs(vllm)

    kept = {
        k: v for k, v in load_file(folder / WEIGHTS_FILE).items() if k[:4] not in ("lora", "toke")
    }
    named = kept | {f"lora.{key}": value for key, value in lora.weights(vllm).items()}
    named |= {f"tokens.{key}": value for key, value in vllm.token_rows().items()}
    save_model_folder(folder, ModelFolder(folder).config, named, torch.float32)
    loaded = outputs(ModelFolder(folder).load_vllm())
    for old, new, read in zip(before, trained, loaded, strict=True):
        assert (old - new).abs().amax() > 1e-2
        torch.testing.assert_close(read, new, atol=1e-4, rtol=1e-4)


def test_attaching_changes_nothing_yet(folder):
    vllm = stock(folder)
    before = outputs(vllm)
    lora.attach(vllm, ModelFolder(folder).config.vllm.lora)
    for old, new in zip(before, outputs(vllm), strict=True):
        torch.testing.assert_close(old, new)


def test_only_low_rank_updates_and_the_new_rows_are_trained(folder):
    vllm = stock(folder)
    vllm.requires_grad_(True)
    parameters = lora.attach(vllm, ModelFolder(folder).config.vllm.lora)
    named = {name for name, p in vllm.named_parameters() if p.requires_grad}
    assert len(named) == len(parameters)
    low_rank = {name for name in named if "lora_" in name}
    assert len(low_rank) == TINY.llm_layers * 2 * 2
    assert all("language_model" in name for name in low_rank)
    rows = [p for name, p in vllm.named_parameters() if name in named - low_rank]
    assert [tuple(p.shape) for p in rows] == [(32, 32)] * (1 if vllm.tied else 2)


def test_the_words_that_were_there_before_are_left_alone(folder):
    vllm = stock(folder)
    before = vllm.model.get_input_embeddings().weight.clone()
    first = vllm.edit_ids[0]
    train(vllm, folder)
    layer = vllm.model.get_input_embeddings()
    ids = torch.arange(len(before))
    after = layer(ids)
    assert torch.equal(after[:first], before[:first])
    assert not torch.allclose(after[first:], before[first:])


def test_weights_have_the_checkpoints_names_and_shapes(folder):
    vllm = stock(folder)
    lora.attach(vllm, ModelFolder(folder).config.vllm.lora)
    shapes = {name: tuple(weight.shape) for name, weight in lora.weights(vllm).items()}
    assert shapes == {
        f"{layer}.{letter}.{ab}": (8, 32) if ab == "A" else (32, 8)
        for layer in range(TINY.llm_layers)
        for letter in "qv"
        for ab in "AB"
    }


def test_a_later_stage_goes_on_where_an_earlier_one_stopped(folder):
    first = stock(folder)
    train(first, folder)
    rows = {name: row.detach().clone() for name, row in first.token_rows().items()}
    second = stock(folder)
    lora.attach(second, ModelFolder(folder).config.vllm.lora)
    lora.load(second, lora.weights(first), rows)
    for old, new in zip(outputs(first), outputs(second), strict=True):
        torch.testing.assert_close(old, new, atol=1e-5, rtol=1e-5)
