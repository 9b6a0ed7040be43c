import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPModel

from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import PRETRAINED, WEIGHTS_FILE, ModelFolder, load_stock_vllm
from flexedit.models.vllm import VLLM
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.batch import collate
from flexedit.training.pretrain import RESTATE, VLLMPretraining
from flexedit.training.stages import MAX_WORKERS, MINI_PLAN, ORDER, MiniTraining, curve, num_workers
from flexedit.training.trainer import CHECKPOINT
from tests.processes import in_two_processes
from tests.training.plan import tiny_plan

CARD = Path(__file__).parents[2] / "MODEL_CARD.md"
TRAINED = [name for name in ORDER if name not in ("parts", "export")]


def test_every_stage_trains_in_its_order_and_leaves_a_curve(trained):
    assert all((trained / name / "done").is_file() for name in ORDER)
    finished = [(trained / name / "done").stat().st_mtime_ns for name in ORDER]
    assert finished == sorted(finished)
    for name in TRAINED:
        assert [row["step"] for row in curve(trained / name)] == [1, 2]
    losses = {name: set(curve(trained / name)[0]) - {"step", "seconds"} for name in TRAINED}
    helpers = {"helper_classes", "helper_result", "helper_mask"}
    assert losses == {
        "vae": {"l1", "l2", "kl"},
        "clip": {"contrast", "classes", "covered", "colors"},
        "vision": {"classes", "covered", "colors"},
        "vllm": {"reply"},
        "base": {"diffusion"} | helpers,
        "align": {"reply", "align"},
        "joint": {"reply", "diffusion"} | helpers,
        "decoder": {"l1", "l2"},
    }


def run_in_a_process(folder: Path) -> None:
    training = MiniTraining(folder, tiny_plan())
    assert training.processes.num_processes == 2
    training.run(max_seconds=0.0)  # stopped at once
    training.run()


def test_two_processes_train_one_mini(trained, tmp_path):
    in_two_processes(run_in_a_process, tmp_path)
    for name in TRAINED:
        assert [row["step"] for row in curve(tmp_path / name)] == [1, 2]
    alone, shared = (ModelFolder(path / "flexedit-mini") for path in (trained, tmp_path))
    assert alone.keys == shared.keys
    result = FlexEditPipeline(shared, "cpu")(collate([World(64)[0]]).request, num_steps=1)
    assert torch.isfinite(result.picture).all()


def test_a_stage_asks_for_those_it_starts_from(tmp_path):
    with pytest.raises(FlexEditError, match=r"joint starts from base and align.* Run that first"):
        MiniTraining(tmp_path, tiny_plan()).run(("joint",))
    assert not any(tmp_path.iterdir())


def test_the_vllm_learns_to_say_half_of_the_edits_again_in_full(trained, monkeypatch):
    vllm = load_stock_vllm(trained / "model" / "vllm")
    said = {}

    def tokenize(texts, replies, **kept):
        said.update(texts=texts, replies=replies)
        return VLLM.tokenize(vllm, texts, replies, **kept)

    monkeypatch.setattr(vllm, "tokenize", tokenize)
    batch, pretraining = collate([World(64)[index] for index in range(40)]), VLLMPretraining(vllm)
    with torch.no_grad():
        pretraining(batch, pretraining.draw(0, 40))
    again = [RESTATE in text for text in said["texts"]]
    edits = [sample.task != "ask" for sample in batch.samples]
    assert 0.3 < sum(again) / sum(edits) < 0.7
    assert not any(a and not edit for a, edit in zip(again, edits, strict=True))
    for a, reply, sample in zip(again, said["replies"], batch.samples, strict=True):
        assert reply == (sample.caption if a else sample.reply)


def test_the_exported_folder_is_a_model_that_edits(trained):
    pipeline = FlexEditPipeline.from_pretrained(trained / "flexedit-mini", "cpu")
    assert pipeline.config.name == "flexedit-mini"
    sample = World(64)[0]
    request = collate([sample]).request
    for reply in ("direct", "generate"):
        result = pipeline(request, reply=reply, num_steps=2)
        assert result.picture.shape == (1, 3, 64, 64) and torch.isfinite(result.picture).all()


@pytest.mark.parametrize("shipped", [True, False])
def test_a_model_does_not_say_where_it_was_trained(trained, shipped):
    folder = PRETRAINED / "flexedit-mini" if shipped else trained / "flexedit-mini"
    settings = [json.loads(file.read_text()) for file in folder.rglob("config.json")]
    assert len(settings) == 3 and not any("_name_or_path" in one for one in settings)


def test_the_exported_weights_are_half_as_large_as_the_trained_ones(trained):
    files = sorted((trained / "flexedit-mini").rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_the_export_is_the_last_stages_outcome(trained):
    joint, shipped = (
        load_file(trained / name / WEIGHTS_FILE) for name in ("joint", "flexedit-mini")
    )
    assert set(joint) == set(shipped) == set(ModelFolder(trained / "flexedit-mini").keys)
    assert all(torch.equal(shipped[key], tensor.half()) for key, tensor in joint.items())


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


def outcome(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The weights under a prefix that a stage had when it ended"""
    state = torch.load(folder / CHECKPOINT, weights_only=True)["trained"]
    return {key[len(prefix) :]: w for key, w in state.items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("stage", "prefix", "folder", "kept"),
    [
        ("clip", "clip.", "model/clip", ""),
        ("vision", "tower.", "after vision", "llava.model.vision_tower."),
        ("vllm", "vllm.", "model/vllm", ""),
    ],
)
def test_what_a_stage_pretrained_is_what_the_next_one_reads(trained, stage, prefix, folder, kept):
    if stage == "clip":
        read = CLIPModel.from_pretrained(trained / folder).state_dict()
    else:
        read = load_stock_vllm(trained / folder).state_dict()
    weights = outcome(trained / stage, prefix)
    assert len(weights) > 10
    assert all(torch.equal(read[kept + key], weight) for key, weight in weights.items())


def averages(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    return dict(zip(state["trained"], state["ema"]["shadow_params"], strict=True))


def test_the_decoder_is_trained_alone_and_handed_on(trained):
    read = AutoencoderKL.from_pretrained(trained / "model" / "vae").state_dict()
    first, second = (averages(trained / stage) for stage in ("vae", "decoder"))
    for key, weight in (first | second).items():
        assert torch.equal(read[key.removeprefix("vae.")], weight)
    assert not any(torch.equal(first[key], weight) for key, weight in second.items())


def test_what_is_exported_is_exported_anew_after_another_stage(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "decoder" / "done").unlink()
    weights = folder / "flexedit-mini" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    MiniTraining(folder, tiny_plan()).run()
    assert weights.is_file()


def test_averaged_weights_are_what_is_handed_on(trained):
    averaged, last = averages(trained / "joint"), outcome(trained / "joint", "")
    handed_on = load_file(trained / "joint" / WEIGHTS_FILE)
    name = "unet.conv_out.weight"
    assert torch.equal(handed_on[name], averaged[f"unet.{name}"])
    assert not torch.equal(handed_on[name], last[f"unet.{name}"])


def test_what_was_pretrained_is_in_the_model(trained):
    config = json.loads((trained / "flexedit-mini" / "vae" / "config.json").read_text())
    assert config["scaling_factor"] != 1.0
    for part in ("clip", "vllm"):
        trained_part = load_file(trained / "model" / part / "model.safetensors")
        shipped = load_file(trained / "flexedit-mini" / part / "model.safetensors")
        assert all(torch.equal(shipped[key], tensor.half()) for key, tensor in trained_part.items())


def test_running_again_does_nothing(trained):
    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}

    before = snapshot()
    MiniTraining(trained, tiny_plan()).run()
    assert snapshot() == before


def test_a_finished_model_is_trained_on_without_its_checkpoints(trained, tmp_path):
    start = ModelFolder(trained / "flexedit-mini")
    training = MiniTraining(tmp_path / "on", tiny_plan(), seed=1)
    training.take_up(start)
    training.run()
    assert [row["step"] for row in curve(tmp_path / "on" / "joint")] == [1, 2]
    assert not (tmp_path / "on" / "base" / "log.jsonl").exists()
    result = ModelFolder(tmp_path / "on" / "flexedit-mini")
    assert result.keys == start.keys
    for prefix in ("unet", "mea", "qformer", "lora", "tokens"):
        before, after = start.tensors(prefix), result.tensors(prefix)
        assert any(not torch.equal(before[key], after[key]) for key in before), prefix
    for part in ("vllm", "clip"):
        path = Path(part) / "model.safetensors"
        before, after = load_file(start.path / path), load_file(result.path / path)
        assert all(torch.equal(before[key], after[key]) for key in before)
    training.take_up(ModelFolder(trained / "flexedit-mini"))  # has begun: nothing changes
    assert (tmp_path / "on" / "joint" / "done").is_file()
    with pytest.raises(FlexEditError, match="holds a training with seed 1, not 0"):
        MiniTraining(tmp_path / "on", tiny_plan()).run()


def test_a_training_from_nothing_is_not_taken_for_one_that_goes_on(trained):
    with pytest.raises(FlexEditError, match="holds a training from nothing"):
        MiniTraining(trained, tiny_plan()).take_up(ModelFolder(trained / "flexedit-mini"))


def test_what_joint_goes_on_from_is_all_of_the_model(trained, tmp_path):
    start = ModelFolder(trained / "flexedit-mini")
    MiniTraining(tmp_path, tiny_plan()).take_up(start)
    taken = load_file(tmp_path / "align" / WEIGHTS_FILE) | load_file(
        tmp_path / "base" / WEIGHTS_FILE
    )
    assert set(taken) == set(start.keys)
    assert all(tensor.dtype == torch.float32 for tensor in taken.values())


def test_another_seed_sees_other_samples(tmp_path):
    one, two = (MiniTraining(tmp_path, tiny_plan(), seed) for seed in (0, 1))
    assert (one._world("joint")[0].scene != two._world("joint")[0].scene).any()


def test_what_the_vllm_is_told_depends_on_the_seed(trained, monkeypatch):
    seen = []

    def train(_: MiniTraining, name: str, trainee: torch.nn.Module, *__: object) -> object:
        seen.append(trainee.draw(0, 64).generic)
        return SimpleNamespace(finished=False)

    monkeypatch.setattr(MiniTraining, "_train", train)
    for seed in (0, 0, 1):
        MiniTraining(trained, tiny_plan(), seed).vllm()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_a_folder_keeps_its_seed_to_the_end(trained):
    with pytest.raises(FlexEditError, match=r"seed 0, not 1. Choose another --out, or --seed 0"):
        MiniTraining(trained, tiny_plan(), seed=1).run()


def test_a_folder_keeps_its_seed_from_the_start(tmp_path):
    MiniTraining(tmp_path, tiny_plan(), seed=1).run(("parts",))
    with pytest.raises(FlexEditError, match="holds a training with seed 1, not 0"):
        MiniTraining(tmp_path, tiny_plan()).run()
    assert not (tmp_path / "vae").exists()
    (tmp_path / "seed").unlink()  # as in a folder of an older version
    MiniTraining(tmp_path, tiny_plan()).run(("parts",))


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(8, None, 8), (8, "1", 8), (8, "4", 2), (2, "4", 1), (200, "2", MAX_WORKERS)],
)
def test_processes_share_the_cores_among_their_workers(monkeypatch, cores, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert num_workers() == expected


def test_where_a_process_cannot_be_bound_to_cores_all_of_them_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert num_workers() == 6


def test_a_model_of_other_sizes_is_not_trained_on(trained, tmp_path):
    with pytest.raises(FlexEditError, match=r"flexedit-mini.* differs .*Remove --start"):
        MiniTraining(tmp_path).take_up(ModelFolder(trained / "flexedit-mini"))
    assert not any(tmp_path.iterdir())


def test_an_unknown_stage_is_named_before_anything_is_done(tmp_path):
    with pytest.raises(FlexEditError, match="Unknown stage 'joints'; choose from parts, vae"):
        MiniTraining(tmp_path, tiny_plan()).run(("parts", "joints"))
    assert not any(tmp_path.iterdir())


def test_a_missing_optimizer_is_named_before_hours_are_spent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(FlexEditError, match="Training with Muon needs timm"):
        MiniTraining(tmp_path, tiny_plan()).run()
    assert not any(tmp_path.iterdir())


def test_the_model_card_tells_of_the_plan():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) × (\d+) \| [\d,]+ \| ([\d.]+) \|", CARD.read_text(), re.M
    )
    assert {name: tuple(map(float, numbers)) for name, *numbers in rows} == {
        name: (stage.train.steps, stage.train.batch_size, stage.train.lr)
        for name, stage in MINI_PLAN.stages.items()
    }


def test_every_stage_of_the_shipped_mini_is_planned():
    assert set(MINI_PLAN.stages) == set(TRAINED)
    for stage in MINI_PLAN.stages.values():
        assert stage.train.steps > stage.train.warmup
