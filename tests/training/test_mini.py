import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPModel

from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import PRETRAINED, WEIGHTS_FILE, ModelFolder, load_stock_vllm
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.batch import collate
from flexedit.training.mini import ORDER, MiniTraining
from flexedit.training.monitor import curve
from flexedit.training.pretrain.parts import build_vae
from flexedit.training.recipe import mini_recipe
from tests.processes import in_two_processes
from tests.tiny import TINY
from tests.training.kept import last_checkpoint
from tests.training.plan import tiny_plan

CARD = Path(__file__).parents[2] / "MODEL_CARD.md"
TRAINED = [name for name in ORDER if name not in ("parts", "export")]
HELPERS = {"helper_classes", "helper_result", "helper_mask"}
LOSSES = {
    "vae": {"l1", "l2", "kl"},
    "clip": {"contrast", "classes", "covered", "colors"},
    "vision": {"classes", "covered", "colors"},
    "vllm": {"reply"},
    "base": {"diffusion"} | HELPERS,
    "align": {"reply", "align"},
    "joint": {"reply", "diffusion"} | HELPERS,
    "decoder": {"l1", "l2"},
}


def test_every_stage_trains_in_its_order_and_leaves_a_curve(trained):
    finished = [(trained / name / "done").stat().st_mtime_ns for name in ORDER]
    assert finished == sorted(finished)
    for name in TRAINED:
        rows = curve(trained / name)
        assert [row["step"] for row in rows] == [1, 2]
        assert set(rows[0]) - {"step", "seconds"} == LOSSES[name]


def run_in_a_process(folder: Path) -> None:
    training = MiniTraining(folder, tiny_plan())
    assert training.processes.num_processes == 2
    assert not training.run(max_seconds=0.0)  # stopped at once
    assert training.run()


def test_two_processes_train_one_mini(trained, tmp_path):
    in_two_processes(run_in_a_process, tmp_path)
    for name in TRAINED:
        assert [row["step"] for row in curve(tmp_path / name)] == [1, 2]
    alone, shared = (ModelFolder(path / "flexedit-mini") for path in (trained, tmp_path))
    assert alone.keys == shared.keys
    result = FlexEditPipeline(shared, "cpu")(collate([World(64)[0]]).request, num_steps=1)
    assert torch.isfinite(result.picture).all()


def test_the_exported_folder_is_a_model_that_edits(trained):
    pipeline = FlexEditPipeline.from_pretrained(trained / "flexedit-mini", "cpu")
    assert pipeline.config.name == "flexedit-mini"
    request = collate([World(64)[0]]).request
    for reply in ("direct", "generate"):
        result = pipeline(request, reply=reply, num_steps=2)
        assert result.picture.shape == (1, 3, 64, 64) and torch.isfinite(result.picture).all()


@pytest.mark.parametrize("shipped", [True, False])
def test_a_model_does_not_say_where_it_was_trained(trained, shipped):
    folder = PRETRAINED / "flexedit-mini" if shipped else trained / "flexedit-mini"
    settings = [json.loads(file.read_text()) for file in folder.rglob("config.json")]
    assert len(settings) == 3 and not any("_name_or_path" in part for part in settings)


def halved(file: Path) -> dict[str, torch.Tensor]:
    return {key: tensor.half() for key, tensor in load_file(file).items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_what_was_trained_is_exported_in_half_precision(trained):
    model, shipped = trained / "model", trained / "flexedit-mini"
    files = [file.relative_to(model) for file in model.rglob("*.safetensors")]
    assert len(files) == 3
    for file in files:
        assert_same(load_file(shipped / file), halved(model / file))
    assert_same(load_file(shipped / WEIGHTS_FILE), halved(trained / "joint" / WEIGHTS_FILE))
    assert json.loads((shipped / "vae" / "config.json").read_text())["scaling_factor"] != 1.0


def test_each_stage_goes_on_from_the_one_before(trained):
    base, align, joint = (
        load_file(trained / name / WEIGHTS_FILE) for name in ("base", "align", "joint")
    )
    assert {key.partition(".")[0] for key in base} == {"unet", "mea", "null"}
    assert set(align) == set(joint)
    before = align | base
    for key, tensor in joint.items():  # two steps of the optimizer, lr at most 1e-2
        assert float((tensor - before[key]).abs().max()) < 0.05, key
    moved = {key.partition(".")[0] for key in joint if not torch.equal(joint[key], before[key])}
    assert moved == {"unet", "mea", "qformer", "lora", "tokens"}


def last_weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Those under a prefix that a stage ended with"""
    state = last_checkpoint(folder)["trained"]
    return {key[len(prefix) :]: w for key, w in state.items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("stage", "prefix", "folder", "kept"),
    [
        ("clip", "clip.", "model/clip", ""),
        ("vision", "tower.", "after vision", "model.model.vision_tower."),
        ("vllm", "vllm.", "model/vllm", ""),
    ],
)
def test_what_a_stage_pretrained_is_what_the_next_one_reads(trained, stage, prefix, folder, kept):
    if stage == "clip":
        read = CLIPModel.from_pretrained(trained / folder).state_dict()
    else:
        read = load_stock_vllm(trained / folder).state_dict()
    weights = last_weights(trained / stage, prefix)
    assert len(weights) > 10
    assert all(torch.equal(read[kept + key], weight) for key, weight in weights.items())


def averages(folder: Path) -> dict[str, torch.Tensor]:
    return last_checkpoint(folder)["averages"]


def test_averaged_weights_are_handed_on_also_of_a_decoder_that_is_trained_alone(trained):
    handed_on, last = (
        load_file(trained / "joint" / WEIGHTS_FILE),
        last_weights(trained / "joint", "unet."),
    )
    name = "unet.conv_out.weight"
    assert torch.equal(handed_on[name], averages(trained / "joint")[f"unet.{name}"])
    assert not torch.equal(handed_on[name], last[name])
    read = AutoencoderKL.from_pretrained(trained / "model" / "vae").state_dict()
    first, second = (averages(trained / stage) for stage in ("vae", "decoder"))
    for key, weight in (first | second).items():
        assert torch.equal(read[key.removeprefix("vae.")], weight)
    assert not any(torch.equal(first[key], weight) for key, weight in second.items())


def test_running_again_does_nothing_until_a_stage_is_trained_anew(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")

    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = snapshot()
    assert MiniTraining(folder, tiny_plan()).run()
    assert snapshot() == before
    (folder / "decoder" / "done").unlink()
    weights = folder / "flexedit-mini" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    assert MiniTraining(folder, tiny_plan()).run()
    assert weights.is_file()


# From a finished model


def test_a_finished_model_is_trained_on_without_its_checkpoints(trained, tmp_path):
    start = ModelFolder(trained / "flexedit-mini")
    training = MiniTraining(tmp_path / "on", tiny_plan(), seed=1)
    training.start_from(start)
    taken = [load_file(tmp_path / "on" / name / WEIGHTS_FILE) for name in ("align", "base")]
    assert_same(taken[0] | taken[1], start.all_tensors())
    training.run()
    assert [row["step"] for row in curve(tmp_path / "on" / "joint")] == [1, 2]
    assert not (tmp_path / "on" / "base" / "log.jsonl").exists()
    result = ModelFolder(tmp_path / "on" / "flexedit-mini")
    assert result.keys == start.keys
    before, after = start.all_tensors(), result.all_tensors()
    moved = {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"unet", "mea", "qformer", "lora", "tokens"}
    for part in ("vllm", "clip"):
        path = Path(part) / "model.safetensors"
        assert_same(load_file(start.path / path), load_file(result.path / path))
    training.start_from(start)  # has begun: nothing changes
    assert (tmp_path / "on" / "joint" / "done").is_file()
    with pytest.raises(FlexEditError, match="holds a training with seed 1, not 0"):
        MiniTraining(tmp_path / "on", tiny_plan()).run()


def test_a_finished_model_gets_another_vae_and_keeps_what_its_text_tower_says(trained, tmp_path):
    start, plan = ModelFolder(trained / "flexedit-mini"), tiny_plan()
    channels = 2 * plan.shape.latent_channels
    shape = dataclasses.replace(plan.shape, latent_channels=channels, beta_end=0.02)
    training = MiniTraining(tmp_path, dataclasses.replace(plan, shape=shape), seed=1)
    training.start_from(start, ("vae", "clip", "joint"))
    kept = start.tensors("unet")
    begun = load_file(tmp_path / "base" / WEIGHTS_FILE)
    anew = {key for key in kept if begun[key].shape != kept[key].shape}
    assert {key.split(".")[1] for key in anew} == {"conv_in", "conv_out"}
    assert all(torch.equal(begun[key], kept[key]) for key in kept.keys() - anew)
    assert training.run(["vae", "clip", "joint", "decoder", "export"])
    assert not (tmp_path / "vision" / "log.jsonl").exists()
    result = ModelFolder(tmp_path / "flexedit-mini")
    assert result.config.latent_channels == result.load_vae().config.latent_channels == channels
    assert result.config.diffusion.beta_end == 0.02
    clips = [load_file(folder.path / "clip" / "model.safetensors") for folder in (start, result)]
    moved = {
        key.partition(".")[0] for key in clips[0] if not torch.equal(clips[0][key], clips[1][key])
    }
    assert "vision_model" in moved and "text_model" not in moved


def test_a_training_from_nothing_is_not_taken_for_one_that_goes_on(trained):
    with pytest.raises(FlexEditError, match="holds a training from nothing"):
        MiniTraining(trained, tiny_plan()).start_from(ModelFolder(trained / "flexedit-mini"))


def test_operations_of_the_recipe_are_those_of_its_samples(tmp_path):
    recipe = dataclasses.replace(tiny_plan(), operations={"remove": 1.0})
    samples = MiniTraining(tmp_path, recipe).samples("joint")
    assert {samples[index].operation for index in range(20)} == {"remove"}
    with pytest.raises(FlexEditError, match="Unknown operations paint"):
        MiniTraining(tmp_path, dataclasses.replace(recipe, operations={"paint": 1.0}))


def test_a_model_of_other_sizes_is_not_trained_on(trained, tmp_path):
    with pytest.raises(FlexEditError, match=r"flexedit-mini.* differs .*Remove --start"):
        MiniTraining(tmp_path).start_from(ModelFolder(trained / "flexedit-mini"))
    plan = tiny_plan()
    wider = dataclasses.replace(plan.shape, vae_channels=(16, 16, 16))
    with pytest.raises(FlexEditError, match="if it is the VAE alone that differs, name vae"):
        MiniTraining(tmp_path, dataclasses.replace(plan, shape=wider)).start_from(
            ModelFolder(trained / "flexedit-mini")
        )
    assert not any(tmp_path.iterdir())


# Seeds, bad input


def test_another_seed_sees_and_is_told_something_else(trained, monkeypatch):
    trainings = [MiniTraining(trained, tiny_plan(seed=seed), seed) for seed in (0, 1)]
    scenes = [training.samples("joint")[0].scene for training in trainings]
    assert (scenes[0] != scenes[1]).any()
    told = []
    monkeypatch.setattr(
        MiniTraining, "fit", lambda _, name, trainee: told.append(trainee.draw(0, 64)) or sys.exit()
    )
    for training in trainings:
        with pytest.raises(SystemExit):
            training.stages[ORDER.index("vllm")].run()
    assert not torch.equal(told[0].generic, told[1].generic)


def test_a_folder_keeps_its_seed(tmp_path):
    MiniTraining(tmp_path, tiny_plan(), seed=1).run(["parts"])
    with pytest.raises(FlexEditError, match=r"seed 1, not 0. Choose another --out, or --seed 1"):
        MiniTraining(tmp_path, tiny_plan()).run()
    assert not (tmp_path / "vae").exists()
    (tmp_path / "seed").unlink()  # as in a folder of an older version
    MiniTraining(tmp_path, tiny_plan()).run(["parts"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["joint"], r"joint starts from base and align.* Run that first"),
        (["parts", "joints"], "Unknown stage 'joints'; choose from parts, vae"),
    ],
)
def test_stages_that_cannot_be_run_are_named_before_anything_is_done(tmp_path, names, message):
    with pytest.raises(FlexEditError, match=message):
        MiniTraining(tmp_path, tiny_plan()).run(names)
    assert not any(tmp_path.iterdir())


def test_a_missing_optimizer_is_named_before_hours_are_spent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(FlexEditError, match="Training with Muon needs timm"):
        MiniTraining(tmp_path, tiny_plan()).run()
    assert not any(tmp_path.iterdir())


# The recipe


def test_a_mini_may_have_more_latent_channels(tmp_path):
    build_vae(dataclasses.replace(TINY, latent_channels=16), tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path)
    latent = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    assert latent.shape == (1, 16, 16, 16)
    assert vae.decode(latent).sample.shape == (1, 3, 64, 64)


def test_the_model_card_tells_of_the_recipe():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) × (\d+) \| [\d,]+ \| ([\d.]+) \|", CARD.read_text(), re.M
    )
    assert {name: tuple(map(float, numbers)) for name, *numbers in rows} == {
        name: (stage.train.steps, stage.train.batch_size, stage.train.lr)
        for name, stage in mini_recipe().stages.items()
    }
