import dataclasses

import pytest
import torch
from torch import nn

from flexedit.models.config import MEAConfig
from flexedit.models.mea import MEA, Branches, Conditioning

CONFIG = MEAConfig(width=12, clip_width=10, num_heads=3)
LAYERS = {"down.0.attn2": 8, "down.1.attn2": 16, "mid.attn2": 16}
LENGTH, TOKENS, BATCH = 7, 5, 2


def build(*, trained: bool = True, **changes: object) -> MEA:
    torch.manual_seed(0)
    mea = MEA(dataclasses.replace(CONFIG, **changes), LENGTH, LAYERS)
    mea.null_edit.normal_()
    if trained:
        for parameter in mea.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return mea


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "e": torch.randn(BATCH, LENGTH, CONFIG.width),
        "scene_tokens": torch.randn(BATCH, TOKENS, CONFIG.clip_width),
        "subject_tokens": torch.randn(BATCH, TOKENS, CONFIG.clip_width),
        "strength": torch.tensor([0.0, 0.7]),
        "scene_latent": torch.randn(BATCH, 4, 2, 3),
    }


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
    assert torch.equal(
        build(trained=False).scene_features(given["e"], given["scene_tokens"]), given["e"]
    )


@pytest.mark.parametrize("changes", [{"cross_attention": False}, {"share_kv": True}])
def test_variants_of_a_seed_start_with_the_same_subject_layer(changes):
    weights = (build(trained=False, **how).subject_linear.weight for how in ({}, changes))
    assert torch.equal(*weights)


def test_scene_features_are_the_edit_plus_what_it_finds_in_the_scene():
    mea, given = build(), inputs()
    expected = given["e"] + by_hand(mea, given["e"], given["scene_tokens"])
    torch.testing.assert_close(mea.scene_features(given["e"], given["scene_tokens"]), expected)


def test_without_the_residual_it_is_equation_6_to_the_letter():
    mea, given = build(residual=False), inputs()
    expected = by_hand(mea, given["e"], given["scene_tokens"])
    torch.testing.assert_close(mea.scene_features(given["e"], given["scene_tokens"]), expected)


def test_the_literal_equation_6_does_not_start_at_zero():
    mea, given = build(residual=False, trained=False), inputs()
    assert mea.scene_features(given["e"], given["scene_tokens"]).abs().amax() > 1e-3


def test_without_cross_attention_the_edit_passes_unchanged():
    mea, given = build(cross_attention=False), inputs()
    assert mea.scene is None
    assert mea.scene_features(given["e"], given["scene_tokens"]) is given["e"]


# The three branches


def test_the_positive_branch_has_everything():
    mea, given = build(), inputs()
    positive = mea.branches(**given).positive
    torch.testing.assert_close(positive.f1, mea.scene_features(given["e"], given["scene_tokens"]))
    torch.testing.assert_close(positive.f2, mea.subject_features(given["subject_tokens"]))
    assert torch.equal(positive.strength, given["strength"])
    assert torch.equal(positive.scene_latent, given["scene_latent"])


def test_the_scene_only_branch_drops_the_edit_and_with_it_the_subject():
    mea, given = build(), inputs()
    scene_only = mea.branches(**given).scene_only
    null = mea.null_edit.expand(BATCH, -1, -1)
    torch.testing.assert_close(scene_only.f1, mea.scene_features(null, given["scene_tokens"]))
    assert not torch.allclose(scene_only.f1, null)
    assert not scene_only.strength.any()
    assert torch.equal(scene_only.scene_latent, given["scene_latent"])


def test_the_negative_branch_drops_the_scene_too():
    mea, given = build(), inputs()
    negative = mea.branches(**given).negative
    assert torch.equal(negative.f1, mea.null_edit.expand(BATCH, -1, -1))
    assert not negative.strength.any() and not negative.scene_latent.any()


def test_branches_come_in_the_order_positive_scene_only_negative():
    branches = build().branches(**inputs())
    assert isinstance(branches, Branches)
    assert list(branches) == [branches.positive, branches.scene_only, branches.negative]


def test_what_was_given_is_left_as_it_was():
    given, untouched = inputs(), inputs()
    build().branches(**given)
    assert all(torch.equal(given[name], untouched[name]) for name in given)


def test_strength_belongs_to_its_row():
    given = inputs()
    reversed_rows = {name: tensor.flip(0) for name, tensor in given.items()}
    mea = build(decoupled=False)
    torch.testing.assert_close(
        mea.branches(**given).positive.f1.flip(0), mea.branches(**reversed_rows).positive.f1
    )


# Ablations


def test_without_dca_the_subjects_tokens_join_the_context_weighted_by_the_strength():
    mea, given = build(decoupled=False), inputs()
    assert mea.subject is None
    for branch, strength in zip(
        mea.branches(**given), (given["strength"], torch.zeros(2), torch.zeros(2)), strict=True
    ):
        assert branch.f2 is None and branch.f1.shape == (BATCH, LENGTH + TOKENS, CONFIG.width)
        f2 = mea.subject_features(given["subject_tokens"])
        torch.testing.assert_close(branch.f1[:, LENGTH:], f2 * strength[:, None, None])


def test_without_dca_a_row_without_a_subject_is_the_same_beside_any_other():
    mea, given = build(decoupled=False), inputs()
    given["strength"] = torch.tensor([1.0, 0.0])
    together = mea.branches(**given)
    alone = mea.branches(
        **{key: None if key == "subject_tokens" else value[1:] for key, value in given.items()}
    )
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.f1[1:], other.f1)


def test_the_literal_equation_7_has_no_layers_of_its_own():
    mea = build(share_kv=True)
    assert mea.subject is None
    assert not any(key.startswith("subject.") for key in mea.state_dict())
    assert mea.branches(**inputs()).positive.f2 is not None


def test_a_system_without_subjects_ignores_one():
    mea = build(subject=False)
    assert mea.subject is None and mea.subject_linear is None
    assert all(branch.f2 is None for branch in mea.branches(**inputs()))


# Names and shapes


def test_each_unet_layer_has_keys_and_values_under_its_own_name():
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in build().state_dict().items()
        if key.startswith("subject.")
    }
    assert shapes == {
        f"subject.{name}.to_{letter}.weight": (width, CONFIG.width)
        for name, width in LAYERS.items()
        for letter in "kv"
    }


def test_keys_and_values_are_linear_in_the_subject():
    layers, f2 = build().subject, torch.randn(BATCH, TOKENS, CONFIG.width)
    for name, layer in layers.items():
        key, value = layers[name](f2)
        torch.testing.assert_close(key, f2 @ layer.to_k.weight.T)
        torch.testing.assert_close(value, f2 @ layer.to_v.weight.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(dtype):
    given = {name: tensor.to(dtype) for name, tensor in inputs().items()}
    branch: Conditioning
    for branch in build().to(dtype).branches(**given):
        assert branch.f1.dtype == branch.f2.dtype == dtype


def test_the_subjects_layers_start_as_the_unets_own():
    mea = build()
    unet = nn.Module()
    for name in LAYERS:
        *path, leaf = name.split(".")
        parent = unet
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        layer = nn.Module()
        layer.to_k = nn.Linear(CONFIG.width, LAYERS[name], bias=False)
        layer.to_v = nn.Linear(CONFIG.width, LAYERS[name], bias=False)
        parent.add_module(leaf, layer)
    mea.start_from(unet)
    for name, layer in mea.subject.items():
        assert torch.equal(layer.to_k.weight, unet.get_submodule(name).to_k.weight)
        assert torch.equal(layer.to_v.weight, unet.get_submodule(name).to_v.weight)
