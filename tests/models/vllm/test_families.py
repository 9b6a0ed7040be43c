"""Every family that carries an edit, by its own processor and model: one folder of each, in tiny
sizes, with one embedding for input and output (tied) or two.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flexedit import masks, prompts
from flexedit.errors import FlexEditError
from flexedit.model_folder import load_vllm, vllm_family
from flexedit.models.vllm import VLLM, lora
from flexedit.models.vllm.base import LoRAConfig, VLLMConfig
from flexedit.models.vllm.chat import to_pil
from flexedit.models.vllm.families import FAMILIES
from flexedit.models.vllm.pictures import Pictures
from flexedit.request import EditRequest
from tests.tiny_vllms import FAMILIES as BUILDERS
from tests.tiny_vllms import make_tiny_vllm

RANK = LoRAConfig(rank=4, alpha=8, dropout=0.0)
KINDS = [(family, tied) for family in FAMILIES for tied in (True, False)]
NAMES = [f"{family}-{'tied' if tied else 'untied'}" for family, tied in KINDS]


def settings(family: str) -> VLLMConfig:
    return VLLMConfig(3, type=family, lora=RANK)


@pytest.fixture(scope="module", params=KINDS, ids=NAMES)
def folder(request, tmp_path_factory) -> Path:
    family, tied = request.param
    return make_tiny_vllm(family, tmp_path_factory.mktemp(family), tied)


@pytest.fixture(scope="module")
def vllm(folder) -> VLLM:
    """Weights large enough that each token is felt by all later ones; read only."""
    return loud(load(folder))


def load(folder: Path) -> VLLM:
    torch.manual_seed(0)
    return load_vllm(folder, settings(vllm_family(folder)))


def loud(vllm: VLLM) -> VLLM:
    torch.manual_seed(1)
    for name, parameter in vllm.named_parameters():
        if parameter.dim() > 1:
            words = "embed_tokens" in name or "lm_head" in name
            std = 0.05 if words else 1.5 / parameter[0].numel() ** 0.5
            parameter.data.normal_(0, std)
    return vllm


def request_of(*has_subject: bool, draw: int = 2) -> EditRequest:
    """Rows of a wide scene, with a high subject or without one"""
    generator, rows = torch.Generator().manual_seed(draw), len(has_subject)
    scene = torch.rand(rows, 3, 40, 70, generator=generator)
    subject = torch.rand(rows, 3, 60, 30, generator=generator)
    words = ("remove this", "put the object in [pic2] here, please")
    mask = masks.draw("circle", 40, 70).expand(rows, -1, -1)
    instructions = tuple(words[has] for has in has_subject)
    return EditRequest(scene, mask, instructions, ("edit",) * rows, subject, has_subject)


BOTH = request_of(False, True)


def pictures_of(vllm: VLLM, request: EditRequest) -> Pictures:
    return vllm.pictures(request.marked(), request.subject, request.has_subject)


def row_of(request: EditRequest, row: int) -> EditRequest:
    part = slice(row, row + 1)
    return EditRequest(
        request.scene[part],
        request.mask[part],
        request.instructions[part],
        request.tasks[part],
        request.subject[part],
        request.has_subject[part],
    )


def by_its_processor(vllm: VLLM, request: EditRequest) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of one row, in the family's chat format."""
    (text,) = request.prompts(form=vllm.prompt)
    text = text.replace(prompts.IMAGE, vllm.family.picture)
    shown = [to_pil(request.marked()[0]), to_pil(request.subject[0])][: 1 + request.has_subject[0]]
    if vllm.family.squares:
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(vllm.config.name_or_path)
        shown = [square(picture) for picture in shown]
    else:
        processor = vllm.chat.processor
    begin = vllm.tokenizer.bos_token
    again = bool(begin) and text.startswith(begin)
    return dict(
        processor(images=[shown], text=[text], add_special_tokens=not again, return_tensors="pt")
    )


def square(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    whole = Image.new("RGB", (side, side), (123, 117, 104))  # CLIP's mean
    whole.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return whole


def tiles(pixels: torch.Tensor) -> torch.Tensor:
    """Without the empty ones that fill up a row"""
    if pixels.dim() < 5:
        return pixels
    flat = pixels.flatten(0, 1)
    return flat[flat.flatten(1).any(1)]


def forward(vllm: VLLM, inputs: dict[str, torch.Tensor], said: list[int]) -> torch.Tensor:
    """Transformers' own last hidden states (L, D) of one unpadded row that ends in ``said``"""
    more = torch.tensor([said])
    inputs = dict(inputs) | {"input_ids": torch.cat([inputs["input_ids"], more], 1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        words = torch.zeros_like(more)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], words], 1)
    with torch.no_grad():
        return vllm.model.model(**inputs, use_cache=False).last_hidden_state[0]


def test_prompt_and_pictures_are_what_its_own_processor_makes_of_them(vllm):
    for row in range(2):
        request = row_of(BOTH, row)
        pictures = pictures_of(vllm, request)
        expected = by_its_processor(vllm, request)
        found = vllm.tokenize(request.prompts(form=vllm.prompt), pictures)
        assert found.input_ids.tolist() == expected["input_ids"].tolist()
        assert len(pictures.tokens) == 1 + row
        inputs = vllm.inputs(found, pictures)
        for name in ("image_grid_thw", "image_sizes", "mm_token_type_ids"):
            assert (name in inputs) == (name in expected)
            assert name not in inputs or torch.equal(inputs[name], expected[name])
        found, wanted = tiles(inputs["pixel_values"]), tiles(expected["pixel_values"])
        assert found.shape == wanted.shape  # squares we scale ourselves, in floating point
        assert vllm.family.squares or torch.equal(found, wanted)


def test_direct_gives_each_row_the_states_that_transformers_gives_it_alone(vllm):
    texts = BOTH.prompts(form=vllm.prompt)
    hidden = vllm.direct(texts, pictures_of(vllm, BOTH))
    gap = "" if texts[0][-1].isspace() else " "
    said = vllm.tokenizer(gap + prompts.GENERIC_REPLY, add_special_tokens=False)["input_ids"]
    for row in range(2):
        request = row_of(BOTH, row)
        inputs = by_its_processor(vllm, request)
        if vllm.family.squares:
            inputs["pixel_values"] = pictures_of(vllm, request).inputs["pixel_values"]
        expected = forward(vllm, inputs, said + vllm.edit_ids)[-3:]
        torch.testing.assert_close(hidden[row], expected, atol=2e-4, rtol=2e-4)
    assert (hidden[0] - hidden[1]).abs().amax() > 1e-2


def test_generate_gives_the_states_that_direct_gives_for_the_same_reply(vllm, monkeypatch):
    texts, pictures = BOTH.prompts(form=vllm.prompt), pictures_of(vllm, BOTH)
    spoken, keep = [], VLLM._append_edit_tokens

    def listen(self, sequences, positions, words, said, cache):
        spoken.extend(row[kept].tolist() for row, kept in zip(words, said, strict=True))
        return keep(self, sequences, positions, words, said, cache)

    monkeypatch.setattr(VLLM, "_append_edit_tokens", listen)
    replies, hidden = vllm.generate(texts, pictures, max_new_tokens=6)
    assert all(replies) and replies[0] != replies[1]
    for row, said in enumerate(spoken):
        inputs = by_its_processor(vllm, row_of(BOTH, row))
        if vllm.family.squares:
            inputs["pixel_values"] = pictures_of(vllm, row_of(BOTH, row)).inputs["pixel_values"]
        expected = forward(vllm, inputs, said + vllm.edit_ids)[-3:]
        torch.testing.assert_close(hidden[row], expected, atol=2e-4, rtol=2e-4)


def test_the_second_picture_and_the_mask_are_seen(vllm):
    text = request_of(True).prompts(form=vllm.prompt)
    first = request_of(True)
    other = EditRequest(
        first.scene, first.mask, first.instructions, first.tasks, 1 - first.subject, (True,)
    )
    moved = EditRequest(
        first.scene, first.mask.flip(-1).roll(9, -1), first.instructions, first.tasks,
        first.subject, (True,),
    )  # fmt: skip
    states = [vllm.direct(text, pictures_of(vllm, one)) for one in (first, other, moved)]
    assert (states[0] - states[1]).abs().amax() > 1e-3
    assert (states[0] - states[2]).abs().amax() > 1e-3


def test_what_is_trained_of_it_is_what_is_loaded(folder):
    """LoRA sits on the language model's q and v, and nowhere else."""
    vllm = load(folder)
    untrained = vllm.direct(BOTH.prompts(form=vllm.prompt), pictures_of(vllm, BOTH))
    optimizer = torch.optim.Adam(lora.attach(vllm, RANK), lr=3e-2)
    trained = {name for name, p in vllm.named_parameters() if p.requires_grad and "lora" in name}
    path = f"model.{vllm.family.language_model}.layers."
    assert len(trained) == 2 * 2 * 2 and all(name.startswith(path) for name in trained)
    texts, pictures = BOTH.prompts(form=vllm.prompt), pictures_of(vllm, BOTH)
    losses = []
    for _ in range(3):
        hidden, said = vllm.score(
            texts, pictures, ["a red turtle", "a house"], edit_tokens=[True, True]
        )
        loss = said.sum() + hidden.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    kept = {name: tensor.detach().clone() for name, tensor in lora.checkpoint(vllm).items()}
    names = {"tokens.embed"} if vllm.tied else {"tokens.embed", "tokens.lm_head"}
    assert {name for name in kept if name.startswith("tokens")} == names
    hidden = vllm.eval().direct(texts, pictures)
    assert (hidden - untrained).abs().amax() > 1e-2

    again = load(folder)
    again.set_token_rows({name[7:]: rows for name, rows in kept.items() if name[:6] == "tokens"})
    again.merge_lora({name[5:]: one for name, one in kept.items() if name[:4] == "lora"}, 2.0)
    torch.testing.assert_close(again.direct(texts, pictures), hidden, atol=1e-4, rtol=1e-4)


def test_a_family_that_is_not_in_the_table_is_refused_by_name(tmp_path):
    folder = make_tiny_vllm("qwen2_5_vl", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mllama"}))
    with pytest.raises(FlexEditError, match=r"holds a mllama, .* llava, vipllava, llava_next"):
        load_vllm(folder, settings("llava"))


def test_a_folder_of_another_family_than_the_model_names_is_refused(tmp_path):
    folder = make_tiny_vllm("idefics3", tmp_path)
    with pytest.raises(FlexEditError, match=r"holds a idefics3, but vllm.type .* is llava"):
        load_vllm(folder, settings("llava"))


def test_every_family_of_the_table_is_tried_here():
    assert BUILDERS.keys() == FAMILIES.keys()
