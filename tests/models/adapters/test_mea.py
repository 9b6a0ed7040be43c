import dataclasses
from typing import Any

import pytest
import torch

from flexedit.models.adapters.mea import MEA, MEAConfig
from flexedit.models.diffusion.decoupled import SubjectLayers
from flexedit.models.parts import Features, PictureTokens, Reading

CONFIG = MEAConfig(width=12, clip_width=10, num_heads=3)
LAYERS = {"down.0.attn2": 8, "down.1.attn2": 16, "mid.attn2": 16}
LENGTH, TOKENS, BATCH = 7, 5, 2


def build(*, trained: bool = True, **changes: object) -> MEA:
    torch.manual_seed(0)
    mea = MEA(dataclasses.replace(CONFIG, **changes), LAYERS)
    if trained:
        for parameter in mea.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return mea


def inputs() -> dict[str, Any]:
    """The second row alone has a subject."""
    torch.manual_seed(1)
    return {
        "e": torch.randn(BATCH, LENGTH, CONFIG.width),
        "reading": Reading(("",) * BATCH, (), (), None),
        "scene": torch.randn(BATCH, TOKENS, CONFIG.clip_width),
        "subject": torch.randn(BATCH, TOKENS, CONFIG.clip_width),
        "has_subject": torch.tensor([False, True]),
        "strength": torch.tensor([1.0, 0.7]),
    }


def adapt(mea: MEA, given: dict[str, Any]) -> Features:
    def as_seen(tokens: torch.Tensor | None) -> PictureTokens | None:
        return None if tokens is None else PictureTokens(tokens, tokens, (1, TOKENS))

    return mea(**given | {name: as_seen(given[name]) for name in ("scene", "subject")})


def by_hand(mea: MEA, e: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Eq. 6 as written: softmax(QKᵀ/√d)V per head, then the output layer."""
    query, key, value = (
        e @ mea.scene.to_q.weight.T,
        *(tokens @ layer.weight.T for layer in (mea.scene.to_k, mea.scene.to_v)),
    )
    heads = []
    for head in range(CONFIG.num_heads):
        part = slice(4 * head, 4 * head + 4)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / 4**0.5
        heads.append(scores.softmax(-1) @ value[..., part])
    return mea.scene.to_out(torch.cat(heads, -1))


# f1


def test_an_untrained_adapter_is_the_identity():
    given = inputs()
    assert torch.equal(build(trained=False).scene_features(given["e"], given["scene"]), given["e"])


@pytest.mark.parametrize("changes", [{"cross_attention": False}, {"share_kv": True}])
def test_variants_of_a_seed_start_with_the_same_subject_layer(changes):
    weights = (build(trained=False, **how).subject_linear.weight for how in ({}, changes))
    assert torch.equal(*weights)


def test_scene_features_are_the_edit_plus_what_it_finds_in_the_scene():
    mea, given = build(), inputs()
    expected = given["e"] + by_hand(mea, given["e"], given["scene"])
    torch.testing.assert_close(mea.scene_features(given["e"], given["scene"]), expected)


def test_without_the_residual_it_is_equation_6_to_the_letter():
    mea, given = build(residual=False), inputs()
    expected = by_hand(mea, given["e"], given["scene"])
    torch.testing.assert_close(mea.scene_features(given["e"], given["scene"]), expected)


def test_the_literal_equation_6_does_not_start_at_zero():
    mea, given = build(residual=False, trained=False), inputs()
    assert mea.scene_features(given["e"], given["scene"]).abs().amax() > 1e-3


def test_without_cross_attention_the_edit_passes_unchanged():
    mea, given = build(cross_attention=False), inputs()
    assert mea.scene is None
    assert mea.scene_features(given["e"], given["scene"]) is given["e"]


# Features


def test_features_are_those_of_scene_and_subject_and_the_strength_of_rows_that_have_one():
    mea, given = build(), inputs()
    features = adapt(mea, given)
    torch.testing.assert_close(features.f1, mea.scene_features(given["e"], given["scene"]))
    torch.testing.assert_close(features.f2, mea.subject_linear(given["subject"]))
    assert features.strength.tolist() == [0, torch.tensor(0.7).item()]


def test_without_dca_the_subjects_tokens_join_the_context_weighted_by_the_strength():
    mea, given = build(decoupled=False), inputs()
    features = adapt(mea, given)
    assert mea.subject is None and features.f2 is None
    f2 = mea.subject_linear(given["subject"]) * torch.tensor([0, 0.7])[:, None, None]
    f1 = mea.scene_features(given["e"], given["scene"])
    torch.testing.assert_close(features.f1, torch.cat([f1, f2], 1))


def test_without_dca_a_row_without_a_subject_is_the_same_beside_any_other():
    mea, given = build(decoupled=False), inputs()
    alone = {name: value[:1] for name, value in given.items() if name != "reading"}
    expected = adapt(mea, given | alone | {"subject": None}).f1
    torch.testing.assert_close(adapt(mea, given).f1[:1], expected)


def test_the_literal_equation_7_has_no_layers_of_its_own():
    mea = build(share_kv=True)
    assert mea.subject is None
    assert not any(key.startswith("subject.") for key in mea.state_dict())
    assert adapt(mea, inputs()).f2 is not None


def test_a_system_without_subjects_ignores_one():
    mea = build(subject=False)
    assert mea.subject is None and mea.subject_linear is None
    assert adapt(mea, inputs()).f2 is None and not mea.config.reads_subject


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(dtype):
    given = inputs()
    pictures = {name: given[name].to(dtype) for name in ("e", "scene", "subject", "strength")}
    features = adapt(build().to(dtype), given | pictures)
    assert features.f1.dtype == features.f2.dtype == dtype


def test_the_subjects_layers_start_as_the_unets_own():
    mea = build()
    unet = SubjectLayers(CONFIG.width, LAYERS)  # a UNet's layers have the same names
    mea.start_from(unet)
    ours, theirs = mea.subject.state_dict(), unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
