import math

import pytest
import torch
import torch.nn.functional as F

from flexedit.errors import FlexEditError
from flexedit.models.interactions.bim import BIM, at_latent
from flexedit.models.parts import PictureTokens

CONFIG = BIM.Config(width=6, vision_width=16, channels=5, num_heads=2)
GRID, BATCH, QUERIES = (3, 4), 2, 7


def build(*, trained: bool = True) -> BIM:
    torch.manual_seed(0)
    bim = BIM(CONFIG)
    for parameter in bim.parameters() if trained else ():
        torch.nn.init.normal_(parameter, std=0.4)
    return bim.eval()


def inputs() -> tuple[torch.Tensor, PictureTokens]:
    torch.manual_seed(1)
    patches = torch.randn(BATCH, GRID[0] * GRID[1], CONFIG.vision_width)
    return torch.randn(BATCH, QUERIES, CONFIG.width), PictureTokens(patches, patches, GRID)


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def attend(layer, query, key, value):
    """softmax(QKᵀ/√d)V head by head, written out."""
    q, k, v = linear(layer.q, query), linear(layer.k, key), linear(layer.v, value)
    heads = []
    for a, b, c in zip(*(x.chunk(CONFIG.num_heads, -1) for x in (q, k, v)), strict=True):
        heads.append((a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])).softmax(-1) @ c)
    return linear(layer.out, torch.cat(heads, -1))


def by_hand(bim: BIM, e: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SmartEdit's formula: self-attention (the first without positions or residual), tokens look at
    the picture, an MLP, the picture looks at the tokens; each normalised after; twice."""
    rows, columns = GRID
    places = [
        [2 * (x + 0.5) / columns - 1, 2 * (y + 0.5) / rows - 1]
        for y in range(rows)
        for x in range(columns)
    ]
    angle = 2 * math.pi * torch.tensor(places) @ bim.frequencies
    pe = torch.cat([torch.sin(angle), torch.cos(angle)], -1)

    def norm(layer, x):
        return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)

    first = t = linear(bim.from_edit, e)
    for number, block in enumerate(bim.blocks):
        if number == 0:
            t = norm(block.norm1, attend(block.among_tokens, t, t, t))
        else:
            t = norm(block.norm1, t + attend(block.among_tokens, t + first, t + first, t))
        t = norm(block.norm2, t + attend(block.to_picture, t + first, image + pe, image))
        hidden = linear(block.mlp[0], t).clamp(min=0)
        t = norm(block.norm3, t + linear(block.mlp[2], hidden))
        looked = attend(block.to_tokens, image + pe, t + first, t)
        image = norm(block.norm4, image + looked)
    t = norm(bim.norm, t + attend(bim.last, t + first, image + pe, image))
    return e + 0.5 * linear(bim.to_edit, t), image


def test_a_new_one_changes_nothing():
    e, scene = inputs()
    changed, residual = build(trained=False)(e, scene, (8, 8))
    assert torch.equal(changed, e) and not residual.any()


def test_it_computes_smartedits_formula():
    bim, (e, scene) = build(), inputs()
    wanted, image = by_hand(bim, e, scene.raw)
    changed, residual = bim(e, scene, GRID)
    torch.testing.assert_close(changed, wanted, atol=1e-4, rtol=1e-4)
    weight = bim.to_residual.weight[:, :, 0, 0]
    seen = at_latent(image.mT.unflatten(-1, GRID), GRID)
    expected = torch.einsum("bvhw,cv->bchw", seen, weight) + bim.to_residual.bias[:, None, None]
    torch.testing.assert_close(residual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (5, 11)])
def test_its_residual_has_the_size_of_the_latent(size):
    _, residual = build()(*inputs(), size)
    assert residual.shape == (BATCH, CONFIG.channels, *size)


def test_the_padding_that_clip_saw_is_not_in_the_residual():
    """Of a picture twice as wide as high, CLIP's square has a quarter above and one below."""
    patches = torch.zeros(1, 8 * 8, 1)
    patches.view(8, 8)[2:6] = 1 + torch.arange(4.0)[:, None]
    patches.view(8, 8)[:2] = patches.view(8, 8)[6:] = 100
    seen = at_latent(patches.view(1, 1, 8, 8), (4, 8))
    torch.testing.assert_close(seen[0, 0, :, 3], 1 + torch.arange(4.0))
    square = torch.randn(1, 3, 4, 4)
    wanted = F.interpolate(square, (9, 9), mode="bilinear")
    torch.testing.assert_close(at_latent(square, (9, 9)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 8), (9, 5)])
def test_a_squashed_picture_is_stretched_back_whole(size):
    square = torch.randn(1, 3, 4, 4)
    wanted = F.interpolate(square, size, mode="bilinear")
    seen = at_latent(square, size, "squashed")
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


def test_beside_a_crop_its_border_goes_on():
    columns = torch.arange(4.0).expand(1, 1, 4, 4)
    seen = at_latent(columns, (4, 8), "cropped")[0, 0, 0]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0, 0, 1, 2, 3, 3, 3]), atol=1e-5, rtol=0)


def test_heads_that_do_not_divide_its_width_are_refused():
    with pytest.raises(FlexEditError, match=r"interaction.vision_width 8 .*num_heads 3"):
        BIM.Config(width=6, vision_width=16, channels=5, num_heads=3)
