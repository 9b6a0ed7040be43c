import numpy as np
import pytest
import torch
from PIL import Image

from flexedit.errors import FlexEditError
from flexedit.resolve.candidates import halves
from flexedit.resolve.resolver import resolve
from flexedit.resolve.sam import NUM_POINTS, are_two_things, box_around, load_sam, meant, points_on
from tests.resolve.scenes import HEIGHT, LEFT, RIGHT, WIDTH, disc, scene
from tests.resolve.tiny_sams import KINDS, make_tiny_sam


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return make_tiny_sam(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def sam(folder):
    return load_sam(folder)


def test_all_masks_that_a_model_proposes_are_candidates(sam):
    found = sam.resolve(scene(), disc(LEFT, 14))
    assert 1 <= len(found.candidates) <= 6
    for one in found.candidates:
        assert one.mask.shape == (HEIGHT, WIDTH) and one.mask.dtype == bool
        assert (one.mask & (disc(LEFT, 14).numpy() > 0)).any()
        assert 0 <= one.confidence <= 1


def test_the_masks_are_those_that_transformers_gives_for_these_points_and_box(sam):
    scribble = disc(LEFT, 14).numpy() > 0
    pixels = (scene() * 255).round().byte().movedim(0, -1).numpy()
    inputs = sam.processor(
        images=Image.fromarray(pixels),
        input_points=[[points_on(scribble).tolist()]],
        input_labels=[[[1] * NUM_POINTS]],
        input_boxes=[[box_around(scribble).tolist()]],
        return_tensors="pt",
    )
    known = {"pixel_values", "input_points", "input_labels", "input_boxes"}
    prompts = {name: inputs[name] for name in known}
    prompts["input_points"] = prompts["input_points"].float()
    prompts["input_boxes"] = prompts["input_boxes"].float()
    with torch.inference_mode():
        output = sam.model(**prompts)
    logits, scores, sizes = sam.propose(scene(), [scribble])
    assert torch.allclose(logits[0, -3:], output.pred_masks[0, 0], atol=1e-4)
    assert np.allclose(scores[0, -3:], output.iou_scores[0, 0], atol=1e-4)
    assert set(sizes) <= {"reshaped_input_sizes"}


def test_confidence_is_the_iou_that_is_predicted_best_first(sam):
    found = sam.resolve(scene(), disc(LEFT, 14))
    _, scores, _ = sam.propose(scene(), [disc(LEFT, 14).numpy() > 0])
    confidence = [one.confidence for one in found.candidates]
    assert not found.ambiguous  # else the two things come first
    assert confidence == sorted(confidence, reverse=True)
    assert all(np.abs(scores.clip(0, 1) - one).min() < 1e-3 for one in confidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_runs_in_every_precision(folder, dtype):
    sam = load_sam(folder, dtype)
    assert sam.model.dtype == dtype
    assert sam.resolve(scene(), disc(LEFT, 14)).candidates
    assert sam.memory_required() > 0


@pytest.mark.parametrize("size", [(40, 200), (200, 40), (8, 8), (600, 900)])
def test_pictures_of_any_size_have_masks_of_their_size(sam, size):
    scribble = torch.zeros(size)
    scribble[:, size[1] // 3 :] = 1
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    found = sam.resolve(picture, scribble)
    assert all(one.mask.shape == size and one.mask.any() for one in found.candidates)


def test_the_resolver_asks_it(sam):
    found = resolve(scene()[None], disc(LEFT, 14), "sam", sam=sam, min_area=0, fill_holes=False)
    assert np.array_equal(
        found.mask[0].numpy() > 0, sam.resolve(scene(), disc(LEFT, 14)).candidates[0].mask
    )


def test_weights_that_lack_are_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.startswith("mask_decoder.iou_prediction_head"))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FlexEditError, match=r"lacks weights for mask_decoder\.iou_prediction_head"):
        load_sam(tmp_path)


def test_pickled_weights_and_other_models_are_refused(folder, tmp_path):
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FlexEditError, match="safetensors"):
        load_sam(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FlexEditError, match="cannot be loaded"):
        load_sam(tmp_path)


# Prompts


def test_points_lie_well_inside_a_scribble_and_apart():
    scribble = np.zeros((40, 90), bool)
    scribble[10:30, 5:85] = True
    points = points_on(scribble)
    assert points.shape == (NUM_POINTS, 2)
    x, y = points.T
    assert x.min() > 8 and x.max() < 82 and y.min() > 13 and y.max() < 27
    assert np.ptp(x) > 40


def test_what_is_encircled_is_meant_and_gets_a_point_in_the_middle():
    inside = meant(disc(LEFT, 30) - disc(LEFT, 24))
    assert np.array_equal(inside, disc(LEFT, 30).numpy() > 0)
    assert np.linalg.norm(points_on(inside)[0] - LEFT[::-1]) < 3


def test_a_large_scribble_is_compared_small_and_a_thin_one_is_not_lost():
    thin = torch.zeros(3000, 2000)
    thin[:, 700] = 0.3
    small = meant(thin)
    assert small.shape == (256, 171) and small.any(1).all()


def test_a_thin_line_beside_a_thick_one_is_meant_too():
    drawn = torch.zeros(1080, 1920)
    drawn[400:500, 200:300] = 1
    drawn[200:204, 1000:1800] = 1
    small = meant(drawn)
    assert small[:, : 256 // 3].any() and small[:, 140:235].any(0).all()


def test_a_pixel_gives_its_point_several_times():
    pixel = np.zeros((5, 7), bool)
    pixel[2, 4] = True
    assert (points_on(pixel) == (4.5, 2.5)).all() and box_around(pixel).tolist() == [4, 2, 5, 3]


def test_two_things_are_two_objects_that_each_have_one_half_of_the_scribble():
    left, right = (disc(center, 14).numpy() > 0 for center in (LEFT, RIGHT))
    one, other = (disc(center, 28).numpy() > 0 for center in (LEFT, RIGHT))
    assert are_two_things([left, right], np.stack([one, other]))
    assert not are_two_things([left, right], np.stack([one | other, one | other]))
    assert not are_two_things([left, right], np.stack([other, one]))
    assert not are_two_things([left], np.stack([one]))


def test_two_things_that_are_nearly_one_are_not_two(sam, monkeypatch):
    """Each half's own object lacks the other half, by a small hole; else they are the same."""
    scribble = torch.maximum(disc(LEFT, 4), disc(RIGHT, 4))
    thing = disc((60, 80), 58).bool()
    objects = [thing & ~torch.from_numpy(half) for half in reversed(halves(meant(scribble)))]
    logits = torch.stack([disc(LEFT, 20), *objects])[:, None].float() - 0.5
    scores = np.array([[0.5], [0.9], [0.8]])
    monkeypatch.setattr(sam, "propose", lambda *_: (logits, scores, {}))
    monkeypatch.setattr(sam, "_masks", lambda logits, *_: (logits.flatten(0, -3) > 0).numpy())
    assert are_two_things(halves(meant(scribble)), np.stack(objects))
    found = sam.resolve(scene(), scribble)
    assert not found.ambiguous and len(found.candidates) == 2
