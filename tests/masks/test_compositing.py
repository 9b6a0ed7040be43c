import pytest
import torch

from flexedit import masks
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.masks import compositing


def scene(height: int = 40, width: int = 60, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def circle(height: int = 40, width: int = 60, **where: float) -> torch.Tensor:
    return masks.draw("circle", height, width, **where).unsqueeze(0)


def test_outside_the_mask_the_scene_stays_bit_for_bit():
    before, mask = scene(), circle()
    after, region = compositing.put_edit(before, torch.ones_like(before), mask)
    outside = (region == 0).unsqueeze(1).expand_as(before)
    assert torch.equal(after[outside], before[outside])
    assert (after[~outside] == 1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("cropped", [False, True])
def test_a_scene_keeps_its_type_and_its_values_whatever_they_are(dtype, cropped):
    levels = torch.arange(-128, 128).reshape(1, 1, 16, 16).expand(1, 3, 16, 16) / 100
    before = levels.to(getattr(torch, dtype))
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    edited, _, crop = compositing.cut(before, mask, 8, 1.0)
    assert edited.dtype == before.dtype
    after, region = compositing.put_edit(
        before, 1 - edited if cropped else 1 - before, mask, crop=crop if cropped else None
    )
    outside = (region == 0).unsqueeze(1).expand_as(before)
    assert after.dtype == before.dtype and region.dtype == torch.float32
    assert torch.equal(after[outside], before[outside]) and outside.sum() == 240 * 3


def transparent(hidden: float) -> torch.Tensor:
    """A scene (1, 4, 40, 60) that fades to the right, ``hidden`` where nothing of it is seen"""
    alpha = torch.linspace(1.5, -0.5, 60).clamp(0, 1).expand(1, 1, 40, 60)
    return torch.cat([torch.where(alpha == 0, hidden, scene()), alpha], 1)


@pytest.mark.parametrize("region", compositing.REGIONS)
@pytest.mark.parametrize("cropped", [False, True])
def test_transparency_is_kept_and_what_it_hides_is_never_seen(region, cropped):
    mask, results = circle(shape_width=0.8, shape_height=0.8), []
    for hidden in (0.0, 1.0):
        before = transparent(hidden)
        edit, _, crop = compositing.cut(before, mask, 32, 1.2)
        assert edit.shape[1] == 3
        after, where = compositing.put_edit(
            before,
            0.5 * edit if cropped else torch.full_like(before[:, :3], 0.2),
            mask,
            region=region,
            feather=6,
            crop=crop if cropped else None,
            color_match=True,
        )
        outside = (where == 0).unsqueeze(1).expand_as(before)
        assert torch.equal(after[outside], before[outside]) and not outside.all()
        assert (after[:, 3][where == 1] == 1).all() and (where == 1).any()
        results.append(torch.where(after[:, 3:] > 0, after, 0))
    assert torch.equal(*results)


def test_an_edit_that_is_seen_through_shows_no_hidden_colour_at_its_soft_border():
    hidden = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 4, 4)
    edited, region = torch.full((1, 3, 4, 4), 0.25), torch.full((1, 4, 4), 0.5)
    after = compositing.composite(hidden, edited, region)
    assert torch.equal(after[:, :3], edited) and (after[:, 3] == 0.5).all()


@pytest.mark.parametrize("size", [(40, 60), (33, 57), (1, 1), (7, 64)])
def test_a_decode_with_the_vaes_padding_is_cut_back_to_the_scenes_size(size):
    before = scene(*size)
    padded = masks.pad_to_multiple(before, 8)
    after, _ = compositing.put_edit(before, padded, torch.ones(1, *size))
    assert torch.equal(after, before)


def test_an_edit_of_another_size_is_scaled():
    before = scene()
    after, _ = compositing.put_edit(before, torch.ones(1, 3, 80, 120), circle())
    assert after.shape == before.shape and (after == 1).any()


@pytest.mark.parametrize("counts", [(1, 3, 1), (3, 1, 1), (1, 1, 3), (3, 3, 1)])
def test_one_picture_serves_a_whole_batch(counts):
    scenes, edits, mask_count = counts
    after, region = compositing.put_edit(
        scene(batch=scenes), scene(batch=edits), circle().expand(mask_count, -1, -1)
    )
    assert after.shape[0] == region.shape[0] == 3


def test_batches_that_do_not_match_are_refused_with_both_numbers():
    with pytest.raises(FlexEditError, match=r"scene: 2.*edited: 3"):
        compositing.put_edit(scene(batch=2), scene(batch=3), circle())


def test_a_change_connected_to_the_mask_joins_the_region():
    before = torch.zeros(1, 3, 40, 60)
    edited = before.clone()
    edited[..., 10:30, 20:50] = 1
    edited[..., :5, :5] = 1
    mask = torch.zeros(1, 40, 60)
    mask[:, 15:25, 25:30] = 1
    after, region = compositing.put_edit(before, edited, mask, region="mask + connected change")
    assert region[0, 20, 45] == 1 and after[0, 0, 20, 45] == 1
    assert region[0, 2, 2] == 0 and after[0, 0, 2, 2] == 0


@pytest.mark.parametrize("size", [(200, 300), (16, 300), (300, 16), (9, 9)])
@pytest.mark.parametrize("side", [32, 50])
def test_a_crop_put_back_unedited_changes_next_to_nothing(size, side):
    smooth = masks.resize(scene(4, 4), *size)
    mask = circle(*size, x=0.9, y=0.1, shape_width=0.1, shape_height=0.1)
    picture, cropped, crop = compositing.cut(smooth, mask, side, context=2.0)
    assert picture.shape == (1, 3, side, side) and cropped.shape == (1, side, side)
    assert cropped.max() > 0  # a thin mask fades when it is scaled down
    back, _ = compositing.put_edit(smooth, picture, torch.ones(1, *size), crop=crop)
    assert (back - smooth).abs().max() < 0.1


def test_a_crop_of_the_boxes_own_size_comes_back_bit_for_bit():
    before = scene(100, 100)
    mask = circle(100, 100, shape_width=0.2, shape_height=0.2)
    _, _, crop = compositing.cut(before, mask, 32, context=2.0)
    left, _, right, _ = crop.boxes[0]
    picture, _, crop = compositing.cut(before, mask, right - left, context=2.0)
    back, _ = compositing.put_edit(before, picture, torch.ones(1, 100, 100), crop=crop)
    assert torch.equal(back, before)


def test_each_picture_of_a_batch_has_a_box_of_its_own():
    mask = torch.cat([circle(x=x, shape_width=0.1, shape_height=0.1) for x in (0.0, 1.0)])
    before = scene()
    _, _, crop = compositing.cut(before, mask, 16, context=2.0)
    assert crop.boxes[0][0] == 0 and crop.boxes[1][2] == 60
    after, region = compositing.put_edit(before, torch.ones(2, 3, 16, 16), mask, crop=crop)
    assert after[0, 0, 20, 0] == after[1, 0, 20, 59] == 1
    assert torch.equal(after[0, :, :, 30:], before[0, :, :, 30:])
    assert region.shape == mask.shape


def test_a_mask_of_the_crops_size_is_put_back_with_it():
    before = scene(100, 100)
    mask = circle(100, 100, shape_width=0.2, shape_height=0.2)
    _, cropped, crop = compositing.cut(before, mask, 32, context=2.0)
    _, region = compositing.put_edit(before, torch.ones(1, 3, 32, 32), cropped, crop=crop)
    assert ((region > 0.5) ^ (mask > 0.5)).sum() < 0.2 * mask.sum()


def test_a_mask_of_the_whole_scene_that_has_the_crops_size_by_chance_stays_whole():
    before, whole = scene(128, 128), circle(64, 64, x=0.3, y=0.3, shape_width=0.2)
    cropped, within, crop = compositing.cut(before, whole, 64, 2.0)
    edited = torch.ones_like(cropped)
    _, region = compositing.put_edit(before, edited, whole.clone(), crop=crop)
    assert torch.equal(region, masks.prepare_mask(whole, 128, 128, 1))
    _, region = compositing.put_edit(before, edited, within, crop=crop)
    expected = masks.prepare_mask(whole, 128, 128, 1)
    assert ((region > 0.5) ^ (expected > 0.5)).sum() < 0.1 * expected.sum()


@pytest.mark.parametrize("ratio", [4, 8, 16])
@pytest.mark.parametrize("size", [(83, 101), (96, 77)])
def test_an_edge_that_comfyui_cut_off_for_the_vae_is_filled_and_nothing_moves(size, ratio):
    before = scene(*size)
    (height, top), (width, left) = ((side // ratio * ratio, side % ratio // 2) for side in size)
    decoded = before[..., top : top + height, left : left + width]
    fitted = compositing.fit(decoded, *size)
    inner = fitted[..., top : top + height, left : left + width]
    assert fitted.shape == before.shape and torch.equal(inner, decoded)


def test_a_crop_of_another_scene_is_refused():
    _, _, crop = compositing.cut(scene(), circle(), 32, context=2.0)
    with pytest.raises(FlexEditError, match=r"60×40.*100×100"):
        compositing.put_edit(scene(100, 100), scene(32, 32), circle(100, 100), crop=crop)


def test_nan_in_an_edit_is_named():
    with pytest.raises(FlexEditError, match="edited picture contains NaN"):
        compositing.put_edit(scene(), torch.full((1, 3, 40, 60), torch.nan), circle())


def test_detail_that_a_crop_loses_is_no_change():
    texture, mask = scene(256, 256), circle(256, 256, shape_width=0.2, shape_height=0.2)
    cropped, _, crop = compositing.cut(texture, mask, 32, 3.0)
    _, region = compositing.put_edit(
        texture, cropped, mask, region="mask + connected change", crop=crop
    )
    assert torch.equal(region, (mask > 0).float())


def test_an_edit_scaled_to_a_multiple_of_a_large_ratio_is_scaled_not_cut():
    before = scene(50, 50)
    shrunk = masks.resize(before, 64, 64)
    after, _ = compositing.put_edit(before, shrunk, torch.ones(1, 50, 50))
    assert (after - before).abs().mean() < 0.1


def world(index: int = 0, size: int = 128):
    """→ scene, exact edit (1, 3, H, W) and scribble (1, H, W) of the synthetic world"""
    sample = World(size=size, split="heldout", seed=7, operations={"replace": 1.0})[index]
    pictures = (torch.tensor(picture) / 255 for picture in (sample.scene, sample.target))
    scene, edited = (picture.movedim(-1, 0).unsqueeze(0) for picture in pictures)
    return scene, edited, torch.tensor(sample.mask).float().unsqueeze(0)


def through_a_vae(picture: torch.Tensor, gain: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """Fine detail is lost, and contrast and brightness shift."""
    height, width = picture.shape[-2:]
    small = masks.resize(picture, height // 2, width // 2)
    return (masks.resize(small, height, width) * gain + offset).clamp(0, 1)


def test_matched_colours_remove_a_veil_over_the_edit():
    tint = torch.tensor([0.08, 0.0, -0.06]).view(1, 3, 1, 1)
    for index in range(6):
        before, truth, mask = world(index)
        good = through_a_vae(truth)
        veiled = (through_a_vae(truth, gain=0.85) + 0.05 + tint).clamp(0, 1)
        errors = {}
        for name, edited, match in (
            ("good", good, False),
            ("good, matched", good, True),
            ("veiled", veiled, False),
            ("matched", veiled, True),
        ):
            after, _ = compositing.put_edit(before, edited, mask, color_match=match)
            inside = (mask > 0).unsqueeze(1).expand_as(after)
            errors[name] = float((after - truth)[inside].abs().mean())
        assert errors["matched"] < errors["good"] + 0.25 * (errors["veiled"] - errors["good"])
        assert errors["good, matched"] < errors["good"] + 0.003


def test_matched_colours_leave_the_outside_bit_for_bit():
    before, truth, mask = world()
    after, region = compositing.put_edit(
        before, through_a_vae(truth, 0.8, 0.1), mask, feather=3, color_match=True
    )
    outside = (region == 0).unsqueeze(1).expand_as(before)
    assert torch.equal(after[outside], before[outside]) and not outside.all()


def test_colours_of_a_crop_are_matched_within_its_box():
    before, _, _ = world(size=256)
    mask = circle(256, 256, x=0.3, y=0.3, shape_width=0.15, shape_height=0.15)
    cropped, _, crop = compositing.cut(before, mask, 64, context=2.0)
    after, region = compositing.put_edit(
        before,
        cropped * 0.8 + 0.1,
        mask,
        region="mask + connected change",
        crop=crop,
        color_match=True,
    )
    unveiled, _ = compositing.put_edit(before, cropped, mask, crop=crop)
    assert (after - unveiled).abs().max() < 0.02
    assert torch.equal(region > 0, mask > 0)


def test_a_mask_over_everything_leaves_no_colours_to_match():
    with pytest.raises(FlexEditError, match=r"nothing to compare.*Turn it off"):
        compositing.put_edit(scene(), scene(), torch.ones(1, 40, 60), color_match=True)


def test_the_seam_fades_along_the_edges_of_the_crop():
    before = torch.zeros(1, 3, 100, 100)
    mask = circle(100, 100, shape_width=0.2, shape_height=0.2)
    _, _, crop = compositing.cut(before, mask, 40, context=2.0)
    left, top, right, bottom = crop.boxes[0]
    after, region = compositing.put_edit(
        before, torch.ones(1, 3, 40, 40), mask, grow=50, feather=4, crop=crop
    )
    assert region[0, 50, 50] == 1 and after[0, 0, 50, 50] == 1
    assert 0 < region[0, 50, left] < 0.5 and 0 < region[0, 50, right - 1] < 0.5
    assert not region[0, :top].any() and not region[0, bottom:].any()


def test_a_soft_mask_keeps_its_edge_where_nothing_changed():
    before = scene(64, 64)
    mask = masks.feather(circle(64, 64), 8)
    edited = before.clone()
    edited[..., 28:36, 28:36] = 1 - before[..., 28:36, 28:36].round()
    _, region = compositing.put_edit(before, edited, mask, region="mask + connected change")
    far = masks.grow((edited != before).any(1).float(), 3) == 0
    assert torch.equal(region[far], mask[far]) and ((mask[far] > 0) & (mask[far] < 1)).any()
    assert (region[:, 30:34, 30:34] == 1).all()


def test_a_region_that_shrinks_to_nothing_is_refused():
    with pytest.raises(FlexEditError, match=r"shrinks by 20 pixels.*Let grow be larger"):
        compositing.put_edit(scene(), scene(), circle(shape_width=0.3), grow=-20)


@pytest.mark.parametrize("shift", [0.0, 0.04])
def test_the_region_is_what_changed_and_not_what_a_vae_lost(shift):
    found = added = total = 0.0
    for index in range(12):
        before, truth, mask = world(index, size=64)
        _, region = compositing.put_edit(
            before, through_a_vae(truth, offset=shift), mask, region="mask + connected change"
        )
        changed = ((truth - before).abs().amax(1) > 0.08) & (mask == 0)
        found += float(((region > 0) & changed).sum())
        added += float(((region > 0) & ~changed & (mask == 0)).float().mean()) / 12
        total += float(changed.sum())
    assert found > 0.95 * total and added < 0.02


def test_an_edit_of_most_of_the_picture_is_no_shift_of_colours():
    before = torch.full((1, 3, 64, 64), 0.5)
    edited = before.clone()
    edited[:, 0, :48] = 0.9  # the sky turns red
    mask = circle(64, 64, y=0.25, shape_width=0.3, shape_height=0.3)
    _, region = compositing.put_edit(before, edited, mask, region="mask + connected change")
    assert region[0, :47].all() and not region[0, 50:].any()


@pytest.mark.parametrize(
    ("size", "marked", "context", "minimum", "box"),
    [
        ((100, 200), (slice(40, 60), slice(90, 110)), 2.0, 16, (80, 30, 120, 70)),
        ((100, 200), (slice(50, 51), slice(100, 101)), 2.0, 16, (92, 42, 108, 58)),  # the least
        ((100, 200), (slice(0, 10), slice(190, 200)), 3.0, 16, (170, 0, 200, 30)),  # shifted
        ((40, 200), (slice(10, 30), slice(20, 120)), 1.2, 32, (10, 0, 130, 40)),  # cut off
    ],
)
def test_a_crop_is_a_square_with_context_within_the_picture(size, marked, context, minimum, box):
    mask = torch.zeros(1, *size)
    mask[0][marked] = 1
    assert masks.bounding_crop(mask, context, minimum) == [box]
