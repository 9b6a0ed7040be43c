import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.diffusion.conditioning import Conditioning
from flexedit.models.diffusion.decoupled import Context, Subject, SubjectLayers
from flexedit.models.diffusion.unet import FlexEditUNet

WIDTH, HEADS, TOKENS = 24, 2, 5
CONFIG = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": WIDTH,
    "attention_head_dim": HEADS,
}


@pytest.fixture(scope="module")
def parts() -> tuple[FlexEditUNet, SubjectLayers]:
    torch.manual_seed(0)
    unet = FlexEditUNet(CONFIG)
    layers = SubjectLayers(WIDTH, unet.layers)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return unet, layers


def conditioning(*strength: float, subject: bool = True) -> Conditioning:
    generator = torch.Generator().manual_seed(1)
    batch = len(strength)
    f2 = torch.randn(batch, TOKENS, WIDTH, generator=generator)
    return Conditioning(
        f1=torch.randn(batch, 7, WIDTH, generator=generator),
        f2=f2 if subject else None,
        strength=torch.tensor(strength),
        scene_latent=torch.randn(batch, 4, 8, 8, generator=generator),
    )


def noisy(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 4, 8, 8, generator=generator), torch.tensor([500] * batch)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d)V head by head, written out."""
    heads = []
    for q, k, v in zip(*(x.chunk(HEADS, -1) for x in (query, key, value)), strict=True):
        heads.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return torch.cat(heads, -1)


# Equation 7


@pytest.mark.parametrize("share_kv", [False, True])
def test_attention_is_equation_7(parts, share_kv):
    unet, layers = parts
    given = conditioning(0.7, 1.5)
    own = None if share_kv else layers
    for name, width in unet.layers.items():
        attn = unet.unet.get_submodule(name)
        makers = attn if share_kv else layers[name]
        z = torch.randn(2, 9, width)
        query = attn.to_q(z)
        expected = attend(query, attn.to_k(given.f1), attn.to_v(given.f1))
        extra = attend(query, makers.to_k(given.f2), makers.to_v(given.f2))
        expected = attn.to_out[0](expected + given.strength[:, None, None] * extra)
        context = Context(given.f1, Subject.of(given, own))
        output = attn(z, encoder_hidden_states=context)
        torch.testing.assert_close(output, expected)


@torch.no_grad()
def test_the_scenes_latent_is_the_second_half_of_the_input(parts):
    unet, layers = parts
    seen = []
    hook = unet.unet.conv_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given, (z, timesteps) = conditioning(1.0), noisy(1)
    unet(z, timesteps, given, layers)
    hook.remove()
    assert torch.equal(seen[0], torch.cat([z, given.scene_latent], 1))


# Strength


@torch.no_grad()
def test_strength_zero_is_exactly_no_subject(parts):
    unet, layers = parts
    off = unet(*noisy(2), conditioning(0.0, 0.0), layers)
    none = unet(*noisy(2), conditioning(0.0, 0.0, subject=False), layers)
    assert torch.equal(off, none)


@torch.no_grad()
def test_only_rows_with_a_subject_change(parts):
    unet, layers = parts
    without = unet(*noisy(3), conditioning(0.0, 0.0, 0.0), layers)
    with_one = unet(*noisy(3), conditioning(0.0, 1.0, 0.0), layers)
    changed = (without - with_one).abs().amax((1, 2, 3))
    assert changed[0] == changed[2] == 0 and changed[1] > 1e-4


@torch.no_grad()
def test_a_rows_subject_stays_in_its_row(parts):
    unet, layers = parts
    pair, (z, timesteps) = conditioning(1.0, 0.5), noisy(2)
    one = Conditioning(pair.f1[1:], pair.f2[1:], pair.strength[1:], pair.scene_latent[1:])
    both = unet(z, timesteps, pair, layers)
    alone = unet(z[1:], timesteps[1:], one, layers)
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_literal_equation_7_uses_the_unets_own_keys_and_values(parts):
    unet, _ = parts
    none, shared = (unet(*noisy(1), conditioning(s), None) for s in (0.0, 1.0))
    assert (none - shared).abs().amax() > 1e-4


# The subject's keys and values


def test_rows_without_a_subject_cost_nothing():
    assert Subject.of(conditioning(0.0, 0.0), None) is None
    assert Subject.of(conditioning(1.0, subject=False), None) is None
    subject = Subject.of(conditioning(0.0, 0.5, 0.0, 2.0), None)
    assert subject.rows.tolist() == [1, 3] and subject.tokens.shape == (2, TOKENS, WIDTH)
    assert subject.strength.tolist() == [0.5, 2.0]


def test_gradients_reach_every_subject_layer_and_the_subject(parts):
    unet, layers = parts
    given = conditioning(0.0, 1.0)
    given.f2.requires_grad_()
    layers.zero_grad()
    unet(*noisy(2), given, layers).square().sum().backward()
    for _, layer in layers.items():
        assert layer.to_k.weight.grad.abs().sum() > 0 and layer.to_v.weight.grad.abs().sum() > 0
    assert given.f2.grad[1].abs().sum() > 0 and not given.f2.grad[0].any()


def test_without_a_subject_its_layers_get_no_gradient(parts):
    unet, layers = parts
    layers.zero_grad()
    unet(*noisy(2), conditioning(0.0, 0.0), layers).square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layers.parameters())


# Structure


def test_every_cross_attention_layer_is_decoupled(parts):
    unet, _ = parts
    assert set(unet.layers) == {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "mid_block.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    }


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (7, 12)])
@torch.no_grad()
def test_latents_of_any_size_pass(parts, size):
    unet, layers = parts
    given = conditioning(1.0, 0.0, 0.0)  # three rows, as guidance has
    odd = Conditioning(given.f1, given.f2, given.strength, torch.randn(3, 4, *size))
    prediction = unet(torch.randn(3, 4, *size), torch.tensor([3] * 3), odd, layers)
    assert prediction.shape == (3, 4, *size)


def test_a_config_that_describes_no_unet_is_reported():
    with pytest.raises(FlexEditError, match=r"'unet' section.*Sideways"):
        FlexEditUNet(CONFIG | {"down_block_types": ["Sideways", "DownBlock2D"]})


def test_all_70_of_sdxls_cross_attention_layers_are_decoupled():
    """By the published shape of stabilityai/stable-diffusion-xl-base-1.0"""
    config = {
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    with torch.device("meta"):
        unet = FlexEditUNet(config)
    assert len(unet.layers) == 70
    assert sorted(set(unet.layers.values())) == [640, 1280]
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == 2567
