"""The road on a system of random parts, with plain arithmetic for CLIP and VAE."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flexedit import masks
from flexedit.errors import FlexEditError
from flexedit.model_folder import build_adapter
from flexedit.models.diffusion.conditioning import Branches
from flexedit.models.diffusion.unet import FlexEditUNet
from flexedit.models.parts import PictureTokens, Reading, Text
from flexedit.models.vllm import Instruction
from flexedit.request import EditRequest
from flexedit.systems import system
from flexedit.systems.system import Embeds, Intent
from flexedit.training.pretrain.shape import system_config
from tests.tiny import TINY

LENGTH, WIDTH, BATCH = TINY.text_length, TINY.clip_width, 2
REQUEST = EditRequest(
    scene=torch.rand(BATCH, 3, 16, 24, generator=torch.Generator().manual_seed(0)),
    mask=masks.draw("circle", 16, 24).expand(BATCH, -1, -1),
    instructions=("remove this", "put it there"),
    tasks=("edit", "edit"),
    subject=torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    has_subject=(False, True),
)


class RandomParts:
    """Four tokens and four channels of each picture."""

    def __init__(self, **changes: Any) -> None:
        torch.manual_seed(2)
        self.config = system_config(TINY).override(changes)
        self.unet = FlexEditUNet(self.config.unet)
        self.adapter = build_adapter(self.config, self.unet.layers)
        for parameter in () if self.adapter is None else self.adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        self.eyes, self.seen = torch.randn(3, WIDTH), []

    def see(self, picture: Tensor) -> PictureTokens:
        self.seen.append(picture)
        patches = F.adaptive_avg_pool2d(picture, 2).flatten(2).mT @ self.eyes
        return PictureTokens(patches, patches, (2, 2))

    def encode(self, picture: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(picture, (4, 6))
        return torch.cat([small, small.mean(1, keepdim=True)], 1)


def embeds() -> Embeds:
    e = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3))
    null = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(4))
    reading = Reading(REQUEST.instructions, ("", ""), ("", ""), None)
    intent = Intent(REQUEST, REQUEST.marked(), reading)
    return Embeds(intent, Text(e), Text(null.expand(BATCH, -1, -1)))


# Interpret and embed


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_vllm_reads_the_scene_with_the_mask_painted_on_it(alpha):
    intent = system.interpret(Instruction(), REQUEST, mark_alpha=alpha)
    assert torch.equal(intent.marked, REQUEST.marked(alpha))
    assert intent.request is REQUEST and intent.reading.instructions == REQUEST.instructions


def test_a_system_without_a_vllm_answers_no_question():
    request = dataclasses.replace(REQUEST, tasks=("edit", "ask"))
    with pytest.raises(FlexEditError, match=r"has no VLLM.*Give it an edit"):
        system.interpret(Instruction(), request)


def test_an_answer_to_a_question_carries_no_edit():
    asked = dataclasses.replace(REQUEST, tasks=("edit", "ask"))
    intent = dataclasses.replace(embeds().intent, request=asked)
    with pytest.raises(FlexEditError, match="answers a question and carries no edit"):
        system.embed(None, intent)


# The three branches


@pytest.mark.parametrize("strength", [0.7, torch.tensor([0.3, 0.7])])
def test_the_positive_branch_has_everything(strength):
    parts, given = RandomParts(), embeds()
    positive = system.condition(parts, given, strength).positive
    scene, subject = (
        parts.see(picture).projected for picture in (REQUEST.marked(), REQUEST.subject)
    )
    torch.testing.assert_close(positive.f1, parts.adapter.scene_features(given.text.e, scene))
    torch.testing.assert_close(positive.f2, parts.adapter.subject_features(subject))
    torch.testing.assert_close(positive.strength, torch.tensor([0, 0.7]))
    assert torch.equal(positive.scene_latent, parts.encode(REQUEST.marked()))


def test_the_scene_only_branch_drops_the_edit_and_with_it_the_subject():
    parts, given = RandomParts(), embeds()
    scene_only = system.condition(parts, given).scene_only
    scene = parts.see(REQUEST.marked()).projected
    torch.testing.assert_close(scene_only.f1, parts.adapter.scene_features(given.null.e, scene))
    assert not scene_only.strength.any()
    assert torch.equal(scene_only.scene_latent, parts.encode(REQUEST.marked()))


def test_the_negative_branch_drops_the_scene_too():
    negative = system.condition(RandomParts(), embeds()).negative
    assert torch.equal(negative.f1, embeds().null.e)
    assert not negative.strength.any() and not negative.scene_latent.any()


def test_branches_come_in_the_order_positive_scene_only_negative():
    branches = system.condition(RandomParts(), embeds())
    positive, scene_only, negative = branches
    assert positive is branches.positive and negative is branches.negative
    assert scene_only is branches.scene_only


def test_what_was_given_is_left_as_it_was():
    given, untouched = embeds(), embeds()
    system.condition(RandomParts(), given)
    for name in ("text", "null"):
        assert torch.equal(getattr(given, name).e, getattr(untouched, name).e)
    assert torch.equal(given.intent.marked, untouched.intent.marked)


def test_without_dca_what_joins_the_context_is_zero_where_the_edit_is_dropped():
    parts, given = RandomParts(adapter={"decoupled": False}), embeds()
    branches = system.condition(parts, given, 0.7)
    assert all(branch.f2 is None and branch.f1.shape[1] == LENGTH + 4 for branch in branches)
    joined = branches.positive.f1[:, LENGTH:]
    f2 = parts.adapter.subject_features(parts.see(REQUEST.subject).projected)
    torch.testing.assert_close(joined[1], 0.7 * f2[1])
    assert not joined[0].any()
    assert torch.equal(branches.negative.f1[:, :LENGTH], given.null.e)
    for branch in (branches.scene_only, branches.negative):
        assert not branch.f1[:, LENGTH:].any()


def test_an_adapter_that_reads_no_subject_is_shown_none():
    parts = RandomParts(adapter={"subject": False})
    assert all(branch.f2 is None for branch in system.condition(parts, embeds()))
    assert len(parts.seen) == 1 and torch.equal(parts.seen[0], REQUEST.marked())


def test_without_an_adapter_the_edit_is_the_context_and_clip_sees_nothing():
    parts, given = RandomParts(adapter=None), embeds()
    branches = system.condition(parts, given)
    assert torch.equal(branches.positive.f1, given.text.e) and not parts.seen
    for branch in (branches.scene_only, branches.negative):
        assert torch.equal(branch.f1, given.null.e)
    assert all(branch.f2 is None and not branch.strength.any() for branch in branches)


def test_the_vae_may_see_the_scene_without_the_mask():
    parts = RandomParts(vae_input="clean")
    latent = system.condition(parts, embeds()).positive.scene_latent
    assert torch.equal(latent, parts.encode(REQUEST.scene))
    assert torch.equal(parts.seen[0], REQUEST.marked())


def test_the_null_edit_takes_the_precision_of_the_edit():
    given = embeds()
    given = dataclasses.replace(given, null=Text(given.null.e.bfloat16()))
    branches = system.condition(RandomParts(), given)
    assert {branch.f1.dtype for branch in branches} == {torch.float32}


# Predict


@pytest.mark.parametrize("adapter", [{}, {"share_kv": True}, {"decoupled": False}, None])
@torch.no_grad()
def test_one_call_predicts_what_each_branch_predicts_alone(adapter):
    parts = RandomParts(adapter=adapter)
    branches: Branches = system.condition(parts, embeds())
    latent, timestep = torch.randn(BATCH, 4, 4, 6), torch.tensor(500)
    predicted = system.predictor(parts.unet, parts.adapter, branches)(latent, timestep)
    layers = system.subject_layers(parts.adapter)
    for found, branch in zip(predicted, branches, strict=True):
        expected = parts.unet(latent, timestep.expand(BATCH), branch, layers)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_subjects_keys_and_values_are_made_once_for_all_steps():
    parts, calls = RandomParts(), []
    for _, layer in parts.adapter.subject.items():
        layer.register_forward_hook(lambda *_: calls.append(1))
    predict = system.predictor(parts.unet, parts.adapter, system.condition(parts, embeds()))
    for timestep in (900, 500, 100):
        predict(torch.randn(BATCH, 4, 4, 6), torch.tensor(timestep))
    assert len(calls) == len(parts.unet.layers)


# What is given and not used


@pytest.mark.parametrize(
    ("system_name", "given", "notes"),
    [
        ("flexedit", {"subject": True, "reply": "generate", "strength": 0.5}, []),
        ("insightedit", {"subject": True, "strength": 0.5}, []),
        ("smartedit", {"subject": True, "reply": "generate"}, []),
        ("smartedit", {"strength": 0.5}, ["attends to no subject apart"]),
        ("mgie", {"reply": "generate"}, []),
        ("mgie", {"reply": "direct"}, ["taught to speak before it edits"]),
        ("instructpix2pix", {}, []),
        ("instructpix2pix", {"subject": True}, ["The subject is not used"]),
        ("instructpix2pix", {"reply": "generate"}, ["no VLLM that could speak"]),
    ],
)
def test_what_a_system_does_not_use_is_said(system_name, given, notes):
    said = system.unused(system_config(TINY, system=system_name), **given)
    assert len(said) == len(notes)
    assert all(note in one for note, one in zip(notes, said, strict=True))
