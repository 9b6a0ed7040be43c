import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from flexedit import prompts
from flexedit.data.world import CLASSES, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, save_model_folder
from flexedit.models.diffusion.conditioning import Branches, Conditioning
from flexedit.models.parts import SLOTS
from flexedit.pipeline import FlexEditPipeline
from flexedit.systems import system as road
from flexedit.training import losses as terms
from flexedit.training.batch import Batch, collate
from flexedit.training.draws import Draw, Losses
from flexedit.training.model import TrainingModel, choose
from flexedit.training.recipe import own_stages
from tests.tiny import TEXT_BRIDGE, TINY, make_tiny_folder

JOINT = Losses(
    stage="joint",
    parts=("unet", "adapter", "bridge", "vllm"),
    drop_edit=0,
    drop_scene=0,
    generic_reply=0,
)
ALIGN = Losses(stage="align", parts=("bridge", "vllm"))
HELPERS = ("helper_classes", "helper_result", "helper_mask")
HELPED = dataclasses.replace(JOINT, helper_classes=0.5, helper_result=0.25, helper_mask=2.0)


def build(folder: Path, recipe: Losses = JOINT) -> TrainingModel:
    torch.manual_seed(0)
    return TrainingModel(ModelFolder(folder), recipe, len(CLASSES))


def batch_of(*operations: str) -> Batch:
    return collate([World(64, operations={name: 1.0})[i] for i, name in enumerate(operations)])


def losses(
    system: TrainingModel, batch: Batch, draw: Draw | None = None
) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return system(batch, draw or system.draw(0, len(batch.captions)))


def dealt(draw: Draw, *branches: int) -> Draw:
    return dataclasses.replace(draw, branch=torch.tensor(branches)[:, None])


# What is random


def test_a_draw_depends_on_seed_and_step_alone():
    def make(seed: int = 1, step: int = 2) -> Draw:
        torch.rand(3)  # someone else's dice
        return Draw.make(seed, step, (4, 4, 2, 2), JOINT)

    for name in ("noise", "timesteps", "branch", "generic", "positional"):
        assert torch.equal(getattr(make(), name), getattr(make(), name))
    assert not torch.equal(make().noise, make(step=3).noise)
    assert not torch.equal(make().noise, make(seed=2).noise)


def test_processes_take_their_rows_of_one_draw():
    draw = Draw.make(0, 0, (6, 4, 2, 2), JOINT)
    shares = [draw.rows(0, 2), draw.rows(2, 6)]
    for field in dataclasses.fields(Draw):
        joined = torch.cat([getattr(share, field.name) for share in shares])
        assert torch.equal(joined, getattr(draw, field.name))


@pytest.mark.parametrize(
    ("drop_edit", "drop_scene", "shares"),
    [(0, 0, (1, 0, 0)), (1, 0, (0, 1, 0)), (0, 1, (0, 0, 1)), (0.3, 0.2, (0.5, 0.3, 0.2))],
)
def test_branches_are_dropped_as_often_as_the_recipe_says(drop_edit, drop_scene, shares):
    recipe = dataclasses.replace(JOINT, drop_edit=drop_edit, drop_scene=drop_scene)
    dice = Draw.make(0, 0, (5000, 1, 1, 1), recipe)
    counted = dice.branch.flatten().bincount(minlength=3) / 5000
    assert counted.tolist() == pytest.approx(shares, abs=0.03)


def test_each_row_takes_the_branch_it_was_dealt():
    def option(number: int) -> Conditioning:
        f1 = torch.arange(4.0).view(4, 1, 1) + 10 * number
        f2 = torch.full((4, 2, 1), 7.0)
        return Conditioning(f1, f2, f1[:, 0, 0], f1.view(4, 1, 1, 1))

    chosen = choose(Branches(*map(option, range(3))), torch.tensor([[2], [0], [1], [1]]))
    expected = [20.0, 1.0, 12.0, 13.0]
    assert chosen.f1.flatten().tolist() == expected
    assert chosen.strength.tolist() == expected
    assert chosen.scene_latent.flatten().tolist() == expected
    assert chosen.f2.shape == (4, 2, 1)

    dealt_twice = torch.tensor([[2, 0], [0, 1], [1, 1], [0, 2]])
    chosen = choose(Branches(*map(option, range(3))), dealt_twice)
    assert chosen.f1.flatten().tolist() == [20.0, 0.0, 1.0, 11.0, 12.0, 12.0, 3.0, 23.0]
    assert chosen.f2.shape == (8, 2, 1)


# Which losses concern which row


def test_a_question_is_scored_by_its_reply_alone(tiny):
    found = losses(build(tiny, HELPED), batch_of("ask", "remove", "insert"))
    assert set(found) == {"reply", "diffusion", *HELPERS}
    for name, loss in found.items():
        assert loss.shape == (3,)
        assert (loss[1:] > 0).all()
        assert (loss[0] > 0) == (name == "reply")


def test_in_stage_one_the_diffusion_term_is_replaced(tiny):
    found = losses(build(tiny, ALIGN), batch_of("ask", "remove"))
    assert set(found) == {"reply", "align"}
    assert found["align"][0] == 0 and found["align"][1] > 0


def test_a_frozen_vllm_is_not_scored(tiny):
    recipe = dataclasses.replace(JOINT, parts=("unet", "adapter", "bridge"))
    assert set(losses(build(tiny, recipe), batch_of("remove"))) == {"diffusion"}


def test_rows_are_scored_one_by_one(tiny):
    """So that processes which share a batch sum up to the whole."""
    system, batch = build(tiny, HELPED), batch_of("segment", "insert", "ask")
    draw = system.draw(0, 3)
    together = losses(system, batch, draw)
    for row, operation in enumerate(("segment", "insert", "ask")):
        alone = collate([batch.samples[row]])
        assert alone.samples[0].operation == operation
        for name, loss in losses(system, alone, draw.rows(row, row + 1)).items():
            torch.testing.assert_close(loss[0], together[name][row], atol=1e-5, rtol=1e-4)


def test_weights_of_the_recipe_scale_their_losses(tiny):
    batch = batch_of("remove")
    plain = losses(build(tiny, HELPED), batch)
    doubled = dataclasses.replace(
        HELPED, reply=2.0, diffusion=3.0, helper_classes=2.0, helper_result=1.5, helper_mask=2.0
    )
    found = losses(build(tiny, doubled), batch)
    factors = {name: float(found[name] / plain[name]) for name in plain}
    expected = {"reply": 2.0, "diffusion": 3.0}
    expected |= {"helper_classes": 4.0, "helper_result": 6.0, "helper_mask": 1.0}
    assert factors == pytest.approx(expected, rel=1e-4)


# The reply


def test_generic_rows_are_shown_the_reply_of_the_fast_path_and_questions_never(tiny):
    system, batch = build(tiny), batch_of("remove", "remove", "ask")
    generic = torch.tensor([True, False, True])
    draw = dataclasses.replace(system.draw(0, 3), generic=generic, positional=torch.zeros(3).int())
    texts = [
        prompts.prompt(sample.instruction, sample.task, with_subject=False)
        for sample in batch.samples
    ]
    replies = [prompts.GENERIC_REPLY, batch.replies[1], batch.replies[2]]
    vllm = system.vllm
    with torch.no_grad():
        pictures = vllm.pictures(batch.request.marked(), None, (False,) * 3)
        sequences = vllm.tokenize(
            texts,
            pictures,
            replies,
            edit_tokens=[True, True, False],
            forced=[True, False, False],
            end=True,
        )
        expected = vllm.reply_loss(sequences, vllm.states(sequences, pictures))
    torch.testing.assert_close(losses(system, batch, draw)["reply"], expected)


def test_the_mask_is_pointed_at_with_varying_words(tiny):
    system, batch, found = build(tiny), batch_of("remove", "ask"), []
    for phrase in range(len(prompts.POSITIONAL_PARAPHRASES)):
        positional = torch.full((2,), phrase)
        draw = dataclasses.replace(system.draw(0, 2), positional=positional)
        found.append(losses(system, batch, draw)["reply"])
    edits, questions = zip(*found, strict=True)
    assert len({float(loss) for loss in edits}) == len(edits)
    torch.testing.assert_close(torch.stack(questions), questions[0].expand(len(questions)))


# Diffusion


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_diffusion_scores_what_the_config_says_is_predicted(tiny, tmp_path, prediction_type):
    diffusion = {"prediction_type": prediction_type}
    system = build(make_tiny_folder(tmp_path / "model", diffusion=diffusion))
    batch, draw, seen = batch_of("remove", "recolor"), system.draw(0, 2), []
    hook = system.unet.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs, output))
    )
    found = losses(system, batch, draw)["diffusion"]
    hook.remove()
    ((noisy, *_), prediction) = seen[0]
    with torch.no_grad():
        mode = system.vae.encode(batch.target * 2 - 1).latent_dist.mode()
    clean = mode * system.vae.config.scaling_factor
    noise = draw.noise[:, 0]
    alpha = system.schedule.alphas_cumprod[draw.timesteps].view(2, 1, 1, 1)
    torch.testing.assert_close(noisy, alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)
    wanted = {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean,
    }[prediction_type]
    torch.testing.assert_close(found, (prediction - wanted).square().mean((1, 2, 3)))


def test_the_edited_region_counts_more(tiny):
    batch, found = batch_of("remove"), {}
    for weight in (1.0, 4.0, 7.0):
        system = build(tiny, dataclasses.replace(JOINT, region=weight))
        found[weight] = losses(system, batch)["diffusion"]
    assert found[4.0] > found[1.0]
    torch.testing.assert_close(found[7.0] - found[4.0], found[4.0] - found[1.0])


def test_what_lies_around_the_edited_region_counts_like_it(tiny):
    region = torch.zeros(1, 64, 64)
    region[:, 33, 34] = 1  # in the latent pixel (8, 8)
    batch, found, predictions = dataclasses.replace(batch_of("remove"), region=region), {}, []
    for weight in (1.0, 4.0):
        system = build(tiny, dataclasses.replace(JOINT, region=weight))
        system.unet.register_forward_hook(lambda *call: predictions.append(call[-1]))
        found[weight] = losses(system, batch)["diffusion"]
    assert system.config.diffusion.prediction_type == "sample"
    with torch.no_grad():
        clean = system.vae.encode(batch.target * 2 - 1).latent_dist.mode()
    error = (predictions[0] - clean * system.vae.config.scaling_factor).square()
    around = error[..., 6:11, 6:11].sum() / error.numel()
    torch.testing.assert_close(found[4.0] - found[1.0], 3 * around[None])


def test_several_noises_of_a_row_score_as_each_would_alone(tiny):
    system = build(tiny, dataclasses.replace(HELPED, noises=3, region=4.0, drop_scene=0.3))
    batch = batch_of("insert", "remove")
    draw = system.draw(0, 2)
    assert draw.noise.shape == (2, 3, 4, 16, 16) and draw.branch.shape == (2, 3)
    together = losses(system, batch, draw)
    alone = [
        losses(
            system,
            batch,
            dataclasses.replace(
                draw,
                noise=draw.noise[:, [k]],
                timesteps=draw.timesteps[:, [k]],
                branch=draw.branch[:, [k]],
            ),
        )
        for k in range(3)
    ]
    for name, loss in together.items():
        mean = torch.stack([one[name] for one in alone]).mean(0)
        torch.testing.assert_close(loss, mean, atol=1e-5, rtol=1e-4)


def test_helpers_ask_only_where_the_unet_knows_the_edit(tiny):
    system, batch = build(tiny, HELPED), batch_of("remove", "remove", "remove", "ask")
    found = losses(system, batch, dealt(system.draw(0, 4), 0, 1, 2, 0))
    for name in HELPERS:
        assert (found[name] > 0).tolist() == [True, False, False, False]


def test_a_helper_that_knows_scene_result_and_mask_has_nothing_to_learn():
    """Right answers cost nothing, wrong ones do: of the scene, the result, and what is meant."""
    batch = batch_of("replace")
    count, side = len(CLASSES) + 1, (16, 16)
    one_hot = [
        F.one_hot(classes[:, 2::4, 2::4], count).permute(0, 3, 1, 2).float()
        for classes in (batch.classes, batch.result_classes)
    ]
    assert not torch.equal(*one_hot)
    meant = F.adaptive_avg_pool2d(batch.object_mask[:, None], side).round() * 2 - 1
    answers = {"right": torch.cat([*one_hot, meant], 1), "wrong": torch.cat([*one_hot, -meant], 1)}
    answers["mixed up"] = torch.cat([*one_hot[::-1], meant], 1)
    found = {}
    for name, answer in answers.items():
        scores = terms.helpers(50 * answer[:, :, None], batch, torch.ones(1))
        found[name] = {key: float(score.mean()) for key, score in scores.items()}
    for name in HELPERS[:2]:
        assert found["right"][name] < 0.1 * found["mixed up"][name]
    assert found["right"]["helper_mask"] < 0.1 * found["wrong"]["helper_mask"]


# Gradients


def subject_gradient(system: TrainingModel, batch: Batch, *branches: int) -> float:
    system.zero_grad()
    draw = dealt(system.draw(0, len(branches)), *branches)
    system(batch, draw)["diffusion"].sum().backward()
    trained = [*system.adapter.subject.parameters(), *system.adapter.subject_linear.parameters()]
    return sum(float(p.grad.abs().sum()) for p in trained if p.grad is not None)


def test_the_subjects_layers_learn_only_from_rows_that_show_one(tiny):
    system = build(tiny)
    torch.nn.init.normal_(system.unet.unet.conv_out.weight, std=0.1)
    assert subject_gradient(system, batch_of("insert", "remove"), 0, 0) > 0
    assert subject_gradient(system, batch_of("remove", "add"), 0, 0) == 0
    assert subject_gradient(system, batch_of("insert", "insert"), 1, 2) == 0


def trained_names(system: TrainingModel) -> set[str]:
    return {name.partition(".")[0] for name, p in system.named_parameters() if p.requires_grad}


def test_a_recipe_trains_its_parts_and_nothing_else(tiny):
    assert trained_names(build(tiny, JOINT)) == {"unet", "adapter", "bridge", "vllm", "helper"}
    assert trained_names(build(tiny, ALIGN)) == {"bridge", "vllm", "helper"}
    system = build(tiny, JOINT)
    for name, parameter in system.vllm.named_parameters():
        assert parameter.requires_grad == ("lora_" in name or "trainable_tokens" in name), name


def test_every_trained_part_gets_a_gradient(tiny):
    system = build(tiny, HELPED)
    for part in (system.unet.unet.conv_out, system.adapter.scene.to_out):
        torch.nn.init.normal_(part.weight, std=0.1)  # both start at zero
    found = system(batch_of("insert", "segment"), system.draw(0, 2))
    torch.stack([loss.mean() for loss in found.values()]).sum().backward()
    silent = {
        name
        for name, p in system.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    assert {name for name in silent if "lora_A" not in name} == set()  # B starts at zero
    frozen = [p for p in system.parameters() if not p.requires_grad]
    assert frozen and all(p.grad is None for p in frozen)


def test_alignment_pulls_the_edit_towards_clips_text(tiny):
    system, batch = build(tiny, ALIGN), batch_of("remove", "replace")
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=1e-2)
    curve = []
    for step in range(12):
        found = system(batch, system.draw(step, 2))["align"].mean()
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(found.detach()))
    assert curve[-1] < 0.5 * curve[0]


def test_alignment_is_the_squared_distance_to_the_captions_embedding(tiny):
    system, batch = build(tiny, ALIGN), batch_of("remove", "replace")
    e = torch.randn(2, TINY.text_length, TINY.clip_width)
    expected = torch.stack(
        [F.mse_loss(e[row], system.text([batch.captions[row]])[0]) for row in range(2)]
    )
    found = terms.alignment(e, system.text(batch.captions), batch.has_target)
    torch.testing.assert_close(found, expected)


# From stage to stage, and into a model folder


def test_what_a_dropped_edit_becomes_is_the_empty_text(tiny):
    system = build(tiny)
    assert torch.equal(system.bridge.null_edit, system.text([""])[0])
    assert not system.bridge.null_edit.requires_grad


def shaken(system: TrainingModel) -> TrainingModel:
    for parameter in system.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return system


def test_a_later_stage_takes_up_what_an_earlier_one_trained(tiny):
    first, batch = shaken(build(tiny, JOINT)), batch_of("remove", "insert")
    second = build(tiny, JOINT)
    draw = first.draw(0, 2)
    before = losses(second, batch, draw)
    second.start_from({key: tensor.detach() for key, tensor in first.tensors().items()})
    for name, expected in losses(first, batch, draw).items():
        torch.testing.assert_close(losses(second, batch, draw)[name], expected)
        assert not torch.allclose(before[name], expected)


@pytest.mark.parametrize("key", ["qformer.queries", "mea.subject_linear.weight", "lora.0.q.A"])
def test_a_start_that_lacks_a_tensor_or_has_another_shape_is_refused(key, tiny):
    start = ModelFolder(tiny).all_tensors()
    lacking = {name: tensor for name, tensor in start.items() if name != key}
    for wrong, message in ((lacking, f"lacks {key}"), (start | {key: torch.zeros(1)}, "has shape")):
        with pytest.raises(FlexEditError, match=message):
            build(tiny).start_from(wrong)


def test_training_on_ones_own_edits_trains_every_slot():
    assert set(own_stages()["joint"].losses.parts) == set(SLOTS)


def test_a_frozen_vllm_keeps_what_was_trained_before(tmp_path):
    folder = make_tiny_folder(tmp_path / "model", vllm={"lora": {"dropout": 0.5}})
    start = ModelFolder(folder).all_tensors()
    system = build(folder, dataclasses.replace(JOINT, parts=("unet", "adapter")))
    system.start_from(start)
    tensors = system.tensors()
    assert set(tensors) == set(start)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in start.items())

    assert trained_names(system) == {"unet", "adapter", "helper"}
    assert not any(module.training for module in system.vllm.modules())
    batch, vllm = batch_of("remove"), ModelFolder(folder).load_vllm()
    pictures = vllm.pictures(batch.request.marked(), None, (False,))
    text = prompts.prompt("remove this")
    sequences = vllm.tokenize([text], pictures, [prompts.GENERIC_REPLY])
    with torch.no_grad():
        states, expected = (one.states(sequences, pictures) for one in (system.vllm, vllm))
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_a_system_without_a_vllm_reads_captions_and_hands_its_unet_on(tiny, tmp_path):
    recipe = Losses(stage="joint", parts=("unet", "adapter"))
    folder = make_tiny_folder(tmp_path / "text", vllm=None, bridge=TEXT_BRIDGE)
    base, batch = shaken(build(folder, recipe)), batch_of("remove", "ask")
    assert base.vllm is None
    assert set(losses(base, batch)) == {"diffusion"}
    embeds, _ = base.embed(batch, base.draw(0, 2))
    assert torch.equal(embeds.text.e, base.text(batch.captions))
    later = build(tiny, JOINT)
    bridge = {name: tensor.clone() for name, tensor in later.bridge.state_dict().items()}
    later.start_from(base.tensors())
    for part in ("unet", "adapter"):
        expected, found = (getattr(system, part).state_dict() for system in (base, later))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    now = later.bridge.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in bridge.items())


def test_what_was_trained_is_a_model_folder_that_computes_the_same(tiny, tmp_path):
    import shutil

    system, batch = shaken(build(tiny, HELPED)), batch_of("remove", "insert")
    tensors = system.tensors()
    assert set(tensors) == set(ModelFolder(tiny).keys)  # no helper, nothing frozen
    folder = shutil.copytree(tiny, tmp_path / "trained")
    save_model_folder(folder, system.config, tensors, torch.float32)
    pipeline = FlexEditPipeline.from_pretrained(folder, "cpu")
    draw = dataclasses.replace(
        system.draw(0, 2), generic=torch.tensor([True, True]), positional=torch.zeros(2).int()
    )
    with torch.inference_mode():
        embeds, _ = system.embed(batch, draw)
        loaded_embeds = pipeline.embed(pipeline.interpret(batch.request, "direct"))
        torch.testing.assert_close(loaded_embeds.text.e, embeds.text.e, atol=1e-4, rtol=1e-4)
        trained, loaded = road.condition(system, embeds), pipeline.condition(loaded_embeds)
        noisy, timesteps = draw.noise[:, 0], draw.timesteps[:, 0]
        for one, other in zip(trained, loaded, strict=True):
            torch.testing.assert_close(
                system.unet(noisy, timesteps, one, system.adapter.subject),
                pipeline.unet(noisy, timesteps, other, pipeline.adapter.subject),
                atol=1e-4,
                rtol=1e-3,
            )
