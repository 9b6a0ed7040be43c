import dataclasses
from pathlib import Path

import pytest
import torch

from flexedit import masks, prompts
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.models.diffusion import sampling
from flexedit.models.diffusion.conditioning import Branches
from flexedit.models.turns import Turns
from flexedit.models.vae import decode, encode
from flexedit.pipeline import FlexEditPipeline
from flexedit.request import EditRequest
from flexedit.systems.system import Embeds, predictor
from tests.tiny import INSTRUCT_PIX2PIX, make_tiny_folder


@pytest.fixture(scope="module")
def pipeline(tiny) -> FlexEditPipeline:
    return FlexEditPipeline.from_pretrained(tiny, "cpu")


@pytest.fixture(scope="module")
def variant(tmp_path_factory, tiny):
    """The tiny system with another config."""

    def make(**changes: object) -> FlexEditPipeline:
        folder = make_tiny_folder(tmp_path_factory.mktemp("variant") / "tiny", **changes)
        return FlexEditPipeline.from_pretrained(folder, "cpu")

    return make


def pictures(count: int = 1, height: int = 32, width: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def request(
    height: int = 32, width: int = 40, instruction: str = "remove this", **settings: object
) -> EditRequest:
    mask = torch.zeros(1, height, width)
    mask[:, : (height + 1) // 2, : (width + 1) // 2] = 1
    given = {"scene": pictures(1, height, width), "mask": mask} | settings
    return EditRequest.create(instruction=instruction, **given)


@torch.inference_mode()
def edit(pipeline: FlexEditPipeline, asked: EditRequest, start: torch.Tensor) -> torch.Tensor:
    """The pipeline's own stages, from noise that is given → picture."""
    embeds = embeds_of(pipeline, asked)
    predict = predictor(pipeline.unet, pipeline.adapter, pipeline.condition(embeds))
    latent = sampling.sample(predict, start, pipeline.config.diffusion, 3, 2.0, 1.5)
    return masks.unpad(decode(pipeline.vae, latent), asked.height, asked.width)


def embeds_of(pipeline: FlexEditPipeline, asked: EditRequest) -> Embeds:
    return pipeline.embed(pipeline.interpret(asked, "direct"))


# One edit


def test_an_edit_that_overflowed_is_no_picture(pipeline):
    latent = torch.zeros(1, pipeline.config.latent_channels, 8, 8)
    latent[..., 0, 0] = torch.inf
    with pytest.raises(FlexEditError, match="overflowed"):
        decode(pipeline.vae, latent)


@pytest.mark.parametrize("size", [(45, 70), (64, 64), (1, 1), (1, 50), (200, 30)])
def test_the_edited_picture_has_exactly_the_scenes_size(pipeline, size):
    result = pipeline(request(*size), num_steps=2)
    assert result.picture.shape == result.marked.shape == (1, 3, *size)
    assert result.picture.amin() >= 0 and result.picture.amax() <= 1
    assert torch.isfinite(result.picture).all()


def test_the_seed_chooses_the_picture(pipeline):
    first, again, other = (pipeline(request(), seed=s, num_steps=2).picture for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().amax() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "add a dog"},
        {"mask": torch.ones(1, 32, 40)},
        {"scene": pictures(seed=1)},
        {"subject": pictures(seed=2)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_a_person_gives_has_an_effect(pipeline, change):
    plain = pipeline(request(), num_steps=2).picture
    assert (pipeline(request(**change), num_steps=2).picture - plain).abs().amax() > 1e-4


def test_a_batch_of_two_is_two_single_edits(pipeline):
    """One row has a subject, and the prompts differ in length."""
    both = EditRequest(
        scene=pictures(2),
        mask=torch.cat([request().mask, request().mask.flip(-1)]),
        instructions=("remove this", "put that thing of the other picture here, please"),
        tasks=("edit", "edit"),
        subject=pictures(2, seed=1),
        has_subject=(False, True),
    )
    single = [
        request(scene=both.scene[:1], mask=both.mask[:1]),
        request(
            scene=both.scene[1:],
            mask=both.mask[1:],
            instruction=both.instructions[1],
            subject=both.subject[1:],
        ),
    ]
    start = sampling.noise((2, 4, 8, 10), 0)
    together = edit(pipeline, both, start)
    for row, alone in enumerate(single):
        picture = edit(pipeline, alone, start[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], picture, atol=1e-4, rtol=1e-4)


def test_the_call_is_its_stages_one_after_another(pipeline):
    asked = request(subject=pictures(seed=3))
    expected = edit(pipeline, asked, sampling.noise((1, 4, 8, 10), 5))
    picture = pipeline(asked, seed=5, num_steps=3, edit_cfg=2.0, scene_cfg=1.5).picture
    assert torch.equal(picture, expected)


# Guidance and strength


def test_scales_of_one_follow_the_positive_branch_alone(pipeline):
    asked = request(subject=pictures(seed=3))
    with torch.inference_mode():
        positive = pipeline.condition(embeds_of(pipeline, asked)).positive
        predict = predictor(pipeline.unet, pipeline.adapter, Branches(positive, positive, positive))
        start = sampling.noise((1, 4, 8, 10), 0)
        alone = sampling.sample(predict, start, pipeline.config.diffusion, 3, 7.0, 5.0)
        expected = masks.unpad(decode(pipeline.vae, alone), 32, 40)
    guided = pipeline(asked, num_steps=3, edit_cfg=1.0, scene_cfg=1.0).picture
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)
    other = pipeline(asked, num_steps=3, edit_cfg=3.0, scene_cfg=1.0).picture
    assert (other - expected).abs().amax() > 1e-3


def test_what_the_model_recommends_is_used_unless_something_else_is_asked(pipeline):
    advice, seen = pipeline.config.sampling, []
    plain = pipeline(request(), on_step=lambda *at: seen.append(at)).picture
    told = pipeline(
        request(),
        num_steps=advice.num_steps,
        edit_cfg=advice.edit_cfg,
        scene_cfg=advice.scene_cfg,
    ).picture
    assert seen == [(n, advice.num_steps) for n in range(1, advice.num_steps + 1)]
    assert torch.equal(plain, told)


def test_the_subjects_strength_scales_its_part_and_zero_is_none_at_all(pipeline):
    """Compared before sampling: a subject is also told to the VLLM, whatever its strength."""
    embeds = embeds_of(pipeline, request(subject=pictures(seed=1)))
    latent, timestep = torch.randn(1, 4, 8, 10), torch.tensor(500)
    predictions = []
    with torch.inference_mode():
        for strength in (0.0, 1e-3, 1.0):
            branches = pipeline.condition(embeds, strength)
            predict = predictor(pipeline.unet, pipeline.adapter, branches)
            predictions.append(predict(latent, timestep))
        without = dataclasses.replace(branches.positive, f2=None)
        none = Branches(without, branches.scene_only, branches.negative)
        expected = predictor(pipeline.unet, pipeline.adapter, none)(latent, timestep)
    (off, weak, full) = predictions
    assert torch.equal(off[0], expected[0])
    assert 0 < (weak[0] - off[0]).abs().amax() < (full[0] - off[0]).abs().amax()
    assert torch.equal(off[1], full[1]) and torch.equal(off[2], full[2])


def test_without_a_subject_its_strength_has_no_effect(pipeline):
    first, second = (pipeline(request(), num_steps=2, subject_strength=s) for s in (0.0, 5.0))
    assert torch.equal(first.picture, second.picture)


# Steps, progress, cancel


def test_no_steps_are_refused(pipeline):
    with pytest.raises(FlexEditError, match="steps is 0"):
        pipeline(request(), num_steps=0)


def test_a_cancelled_run_leaves_the_next_one_alone(pipeline):
    before = pipeline(request(), num_steps=3).picture

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pipeline(request(), num_steps=3, on_step=cancel)
    assert torch.equal(pipeline(request(), num_steps=3).picture, before)


# What the VLLM does


def test_an_edit_by_the_fast_path_says_nothing(pipeline):
    intent = pipeline.interpret(request(), reply="direct")
    assert intent.reading.replies == intent.reading.labels == ("",)
    assert intent.reading.hidden_states.shape == (1, 32, 32)


def test_an_edit_may_speak_first(pipeline):
    counts = []
    intent = pipeline.interpret(request(), reply="generate", on_token=counts.append)
    assert counts == list(range(1, len(counts) + 1)) and counts
    assert intent.reading.hidden_states.shape == (1, 32, 32)


@pytest.mark.parametrize("reply", ["direct", "generate"])
def test_a_question_is_answered_and_carries_no_edit(pipeline, reply):
    intent = pipeline.interpret(request(instruction="", task="ask"), reply=reply)
    assert intent.reading.hidden_states is None and len(intent.reading.replies) == 1
    with pytest.raises(FlexEditError, match="answers a question and carries no edit"):
        pipeline.embed(intent)
    with pytest.raises(FlexEditError, match="carries no edit"):
        pipeline(request(task="ask"), num_steps=2)


def test_an_unknown_reply_mode_is_refused(pipeline):
    with pytest.raises(FlexEditError, match="'sing'; choose direct or generate"):
        pipeline.interpret(request(), reply="sing")


def test_painting_the_object_needs_no_words(pipeline):
    said = pipeline(request(instruction=prompts.SEGMENT_INSTRUCTION, task="segment"), num_steps=2)
    silent = pipeline(request(instruction="", task="segment"), num_steps=2)
    assert torch.equal(said.picture, silent.picture)


# Other systems


def test_clip_is_shown_the_marked_scene_and_the_subject(pipeline):
    asked = request(subject=pictures(seed=1))
    with torch.inference_mode():
        embeds = embeds_of(pipeline, asked)
        positive = pipeline.condition(embeds).positive
        f1 = pipeline.adapter.scene_features(embeds.text.e, pipeline.clip(asked.marked()).projected)
        f2 = pipeline.adapter.subject_features(pipeline.clip(asked.subject).projected)
    assert torch.equal(positive.f1, f1) and torch.equal(positive.f2, f2)


def test_a_latent_is_scaled_for_diffusion_and_back_for_the_picture(pipeline):
    vae, picture = pipeline.vae, pictures()
    assert vae.config.scaling_factor != 1
    with torch.inference_mode():
        latent = encode(vae, picture)
        expected = vae.decode(vae.encode(picture * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
        decoded = decode(vae, latent * vae.config.scaling_factor)
    torch.testing.assert_close(decoded, expected.clamp(0, 1))


def test_the_vae_is_shown_the_marked_scene_or_the_clean_one(pipeline, variant):
    clean = variant(vae_input="clean")
    for system, shown in ((pipeline, request().marked()), (clean, request().scene)):
        with torch.inference_mode():
            latent = system.condition(embeds_of(system, request())).positive.scene_latent
            assert torch.equal(latent, encode(system.vae, shown))


def test_instructpix2pix_is_the_same_road_without_a_vllm(variant):
    system = variant(**INSTRUCT_PIX2PIX)
    result = system(request(45, 70, subject=pictures(seed=1)), num_steps=2)
    assert result.picture.shape == (1, 3, 45, 70)
    assert result.replies == result.labels == ("",)
    with torch.inference_mode():
        embeds = embeds_of(system, request())
        assert torch.equal(embeds.text.e, system.bridge.text(["remove this"]))
        assert torch.equal(system.condition(embeds).positive.f1, embeds.text.e)
    other = system(request(45, 70, instruction="add a dog"), num_steps=2)
    assert (result.picture - other.picture).abs().amax() > 1e-4
    with pytest.raises(FlexEditError, match=r"has no VLLM.*answers no question"):
        system(request(task="ask"))


@pytest.mark.parametrize(
    "switch", ["cross_attention", "decoupled", "subject", "residual", "share_kv"]
)
def test_every_ablation_edits(pipeline, variant, switch):
    full = pipeline.config.adapter
    system = variant(adapter={switch: not getattr(full, switch)})
    result = system(request(subject=pictures(seed=1)), num_steps=2)
    assert torch.isfinite(result.picture).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_prediction_type_is_honoured(pipeline, variant, prediction_type):
    system = variant(diffusion={"prediction_type": prediction_type})
    picture = system(request(), num_steps=2).picture
    assert (picture - pipeline(request(), num_steps=2).picture).abs().amax() > 1e-3


# Loading


def test_parts_are_loaded_when_they_are_first_needed(tiny):
    pipeline = FlexEditPipeline(ModelFolder(tiny), "cpu")
    parts = {"vllm", "bridge", "clip", "interaction", "adapter", "unet", "vae"}
    assert not parts & set(vars(pipeline))
    pipeline.interpret(request(task="ask"))
    assert parts & set(vars(pipeline)) == {"vllm"}
    embeds_of(pipeline, request())
    assert parts & set(vars(pipeline)) == {"vllm", "bridge"}


class Recorded(Turns):
    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.taken: list[str] = []

    def take(self, part):
        self.taken.append(type(part).__name__)
        return super().take(part)


def test_with_offload_large_parts_take_turns_and_the_picture_is_the_same(tiny, pipeline):
    small = FlexEditPipeline.from_pretrained(tiny, "cpu", offload=True)
    small.turns = Recorded()
    wanted = request(subject=pictures(seed=1))
    assert torch.equal(small(wanted, num_steps=2).picture, pipeline(wanted, num_steps=2).picture)
    order = ["VLLM", "QFormer", "AutoencoderKL", "ImageEncoder", "FlexEditUNet", "AutoencoderKL"]
    assert list(dict.fromkeys(small.turns.taken)) == order[:-1]
    assert small.turns.taken[-1] == order[-1] and small.vae.use_slicing


def test_a_part_comes_to_the_device_when_the_one_before_has_left_it():
    moves = []

    class Part(torch.nn.Linear):
        def to(self, device):
            moves.append((self.in_features, str(device)))
            return self

    first, second, turns = Part(1, 1), Part(2, 2), Turns(torch.device("cuda"))
    for part in (first, first, second, first):
        assert turns.take(part) is part
    assert moves == [(1, "cuda"), (1, "cpu"), (2, "cuda"), (2, "cpu"), (1, "cuda")]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(tiny: Path, device):
    with pytest.raises(FlexEditError, match=f"'{device}' cannot be used"):
        FlexEditPipeline.from_pretrained(tiny, device)


def test_a_scene_of_fifty_megapixels_is_refused_before_anything_large_is_made(pipeline):
    scene = torch.zeros(1, 1, 1, 1).expand(1, 1, 5000, 10_000)
    asked = EditRequest.create(scene, "remove this")
    with pytest.raises(FlexEditError, match="10000×5000 pixels, more than can be edited at once"):
        pipeline(asked)
