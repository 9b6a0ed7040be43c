import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.request import MAX_INSTRUCTION, TASKS, EditRequest


def create(**changes: object) -> EditRequest:
    given = {
        "scene": torch.rand(1, 3, 12, 16),
        "instruction": "remove this",
        "mask": torch.ones(1, 12, 16),
    }
    return EditRequest.create(**given | changes)


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 12, 16)


# The mask


def test_empty_mask_tells_the_user_to_paint():
    with pytest.raises(FlexEditError, match="Paint over"):
        create(mask=torch.zeros(1, 12, 16))


def test_without_a_mask_the_whole_picture_is_meant_and_nothing_is_marked():
    request = create(mask=None)
    assert request.mask is None
    assert torch.equal(request.marked(), request.scene)


def test_a_mask_of_another_size_is_resized_to_the_scene():
    mask = torch.zeros(1, 24, 64)
    mask[..., :32] = 1
    resized = create(mask=mask).mask
    assert resized.shape == (1, 12, 16)
    assert (resized[..., :7] == 1).all() and (resized[..., 9:] == 0).all()


@pytest.mark.parametrize("mask", [torch.ones(12, 16), torch.ones(1, 12, 16, dtype=torch.bool)])
def test_a_mask_may_lack_the_batch_or_be_bool(mask):
    assert torch.equal(create(mask=mask).mask, torch.ones(1, 12, 16))


def test_nan_in_a_mask_is_reported():
    with pytest.raises(FlexEditError, match="mask contains NaN"):
        create(mask=torch.full((1, 12, 16), float("nan")))


def test_marking_mixes_white_into_the_mask_only():
    mask = torch.zeros(1, 12, 16)
    mask[:, :6] = 1
    request = create(scene=torch.zeros(1, 3, 12, 16), mask=mask)
    marked = request.marked(alpha=0.25)
    assert (marked[:, :, :6] == 0.25).all() and (marked[:, :, 6:] == 0).all()
    assert not request.scene.any()


# Batches


@pytest.mark.parametrize(
    ("scenes", "masks", "subjects"),
    [(3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 1, 3), (3, None, None), (1, 3, None)],
)
def test_one_of_anything_serves_all_of_the_others(scenes, masks, subjects):
    request = create(
        scene=pictures(scenes),
        mask=None if masks is None else torch.ones(masks, 12, 16),
        subject=None if subjects is None else pictures(subjects),
    )
    assert request.batch_size == len(request.scene) == 3
    assert masks is None or len(request.mask) == 3
    assert subjects is None or len(request.subject) == 3
    assert request.instructions == ("remove this",) * 3
    assert request.tasks == ("edit",) * 3
    assert request.has_subject == (subjects is not None,) * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene": pictures(2), "mask": torch.ones(3, 12, 16)}, "scene: 2, mask: 3"),
        ({"scene": pictures(2), "subject": pictures(4)}, "scene: 2, subject: 4"),
        (
            {"mask": torch.ones(3, 12, 16), "subject": pictures(2)},
            "scene: 1, subject: 2, mask: 3",
        ),
    ],
)
def test_batches_that_do_not_match_are_reported_with_their_numbers(changes, message):
    with pytest.raises(FlexEditError, match=message):
        create(**changes)


# Pictures


def test_what_is_opaque_stays_as_it_is_and_grey_is_repeated():
    rgba, grey = torch.rand(1, 4, 12, 16), torch.rand(1, 1, 12, 16)
    rgba[:, 3] = 1
    assert torch.equal(create(scene=rgba).scene, rgba[:, :3])
    assert torch.equal(create(scene=grey).scene, grey.repeat(1, 3, 1, 1))


def test_a_picture_may_lack_the_batch():
    assert create(scene=torch.rand(3, 12, 16)).scene.shape == (1, 3, 12, 16)


def test_a_single_pixel_is_a_picture():
    request = create(scene=torch.zeros(1, 3, 1, 1), mask=torch.ones(1, 1, 1))
    assert (request.height, request.width) == (1, 1)
    assert (request.marked() == 0.5).all()


def test_values_outside_the_range_are_clamped():
    scene = create(scene=torch.tensor([-1.0, 0.5, 3.0]).view(1, 3, 1, 1)).scene
    assert scene.flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", ["scene", "subject"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_with_nan_or_infinity_is_named(name, value):
    broken = pictures(1)
    broken[0, 1, 2, 3] = value
    with pytest.raises(FlexEditError, match=f"The {name} contains NaN or infinite"):
        create(**{name: broken})


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (0, 3, 4, 4), (1, 3, 0, 4), (4, 4)])
def test_what_is_no_picture_is_reported_with_its_shape(shape):
    with pytest.raises(FlexEditError) as raised:
        create(scene=torch.zeros(shape))
    assert str(shape) in str(raised.value)


# Words


@pytest.mark.parametrize("blank", ["", "  \n\t"])
def test_an_edit_needs_an_instruction(blank):
    with pytest.raises(FlexEditError, match="instruction is empty"):
        create(instruction=blank)


@pytest.mark.parametrize("task", ["segment", "ask"])
def test_painting_the_object_or_asking_about_it_needs_no_words(task):
    assert create(instruction=" ", task=task).instructions == ("",)


def test_an_instruction_in_the_wrong_encoding_is_refused():
    assert create(instruction="\N{BANANA}\x00").instructions[0] == "\N{BANANA}\x00"
    with pytest.raises(FlexEditError, match=r"lone surrogate.*caf\\udce9"):
        create(instruction="caf\udce9")


def test_an_endless_instruction_is_refused_with_its_length():
    assert create(instruction="x" * MAX_INSTRUCTION).instructions[0] == "x" * MAX_INSTRUCTION
    with pytest.raises(FlexEditError, match=f"{MAX_INSTRUCTION + 1} characters"):
        create(instruction="x" * (MAX_INSTRUCTION + 1))


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(FlexEditError, match="'draw'.*" + ", ".join(TASKS)):
        create(task="draw")


def test_a_request_moves_with_all_it_holds():
    moved = create(subject=pictures(1)).to("meta")
    assert {moved.scene.device.type, moved.mask.device.type, moved.subject.device.type} == {"meta"}
    assert moved.has_subject == (True,) and moved.instructions == ("remove this",)


# Transparency


def test_colours_that_nobody_sees_reach_no_model():
    alpha = torch.linspace(1, 0, 16).round().expand(1, 1, 12, 16)
    color = torch.rand(1, 3, 12, 16)
    clear = [torch.cat([torch.where(alpha > 0, color, hidden), alpha], 1) for hidden in (0.0, 1.0)]
    one, other = (create(scene=picture, subject=picture) for picture in clear)
    assert torch.equal(one.scene, other.scene) and torch.equal(one.subject, other.subject)
    assert torch.equal(one.scene[..., :8], color[..., :8])
    assert not torch.equal(one.marked()[..., 8:], one.scene[..., 8:])  # the mark is seen on it
