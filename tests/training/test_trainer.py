import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexedit.data.world import CLASSES, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.training import precision
from flexedit.training import trainer as trainer_module
from flexedit.training.batch import Batch
from flexedit.training.draws import Draw, Recipe
from flexedit.training.model import TrainingModel
from flexedit.training.optimizer import build_optimizer
from flexedit.training.trainer import (
    CHECKPOINT,
    LOG,
    MAX_WORKERS,
    TrainConfig,
    Trainee,
    Trainer,
    curve,
    num_workers,
)
from tests.processes import in_two_processes, started
from tests.training.plan import forget_precision

WORLD = World(32, seed=1)
CONFIG = TrainConfig(
    steps=24, batch_size=4, lr=1e-2, warmup=3, ema=0.9, checkpoint_every=5, log_every=1
)
RECIPE = Recipe(
    stage="joint",
    parts=("unet", "adapter", "bridge", "vllm"),
    drop_edit=0.3,
    helper_classes=0.1,
    helper_mask=0.2,
)


class Painter(Trainee):
    """Learns where the meant object is, from a noisy scene and the scribble."""

    def __init__(self, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.net = nn.Sequential(
            nn.Conv2d(4, width, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(width, 1, 1),
        )

    def draw(self, step: int, batch_size: int) -> Draw:
        return Draw.make(0, step, (batch_size, 3, 32, 32), RECIPE)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        scene = batch.request.scene + 0.1 * draw.noise[:, 0]
        seen = torch.cat([scene, batch.request.mask[:, None]], 1)
        logits = self.net(seen + 0 * self.frozen(seen))[:, 0]
        wrong = F.binary_cross_entropy_with_logits(logits, batch.object_mask, reduction="none")
        return {"mask": wrong.mean((1, 2)), "size": 0.1 * logits.mean((1, 2)).square()}


class Larger(Painter):
    """Has a layer that others lack."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(1, 1)


class Stuck(Painter):
    """Never finishes its 14th step, of two parts each, so that it can be killed there."""

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 2 * 13:
            time.sleep(3600)
        return super().forward(batch, draw)


class Broken(Painter):
    """Something becomes of its loss in the third step."""

    def __init__(self, become: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.become = become

    def draw(self, step: int, batch_size: int) -> Draw:
        self.step = step
        return super().draw(step, batch_size)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        losses = super().forward(batch, draw)
        return losses | {"mask": self.become(losses["mask"])} if self.step == 2 else losses


def train(folder: Path, model: nn.Module | None = None, **changes: object) -> Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    trainer = Trainer(model or Painter(), WORLD, config, folder)
    trainer.run()
    return trainer


def log(folder: Path) -> list[dict[str, float]]:
    """Every logged step without its time."""
    return [{k: value for k, value in row.items() if k != "seconds"} for row in curve(folder)]


def weights(trainer: Trainer) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in trainer.trained.values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def averages(trainer: Trainer) -> list[Tensor]:
    with trainer.averaged():
        return weights(trainer)


def gradients(folder: Path) -> list[Tensor]:
    """Those of a run of one step: Adam's first moment is (1 - β₁) times the gradient."""
    state = torch.load(folder / CHECKPOINT, weights_only=True)["optimizer"]["state"]
    return [moments["exp_avg"] / (1 - CONFIG.betas[0]) for moments in state.values()]


# Learning


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns(tmp_path, optimizer):
    train(tmp_path, steps=60, optimizer=optimizer)
    curve = [row["mask"] for row in log(tmp_path)]
    assert sum(curve[-10:]) < 0.6 * sum(curve[:10])


def test_only_what_is_trainable_changes_and_is_kept(tmp_path):
    model = Painter()
    frozen, net = (
        {k: v.clone() for k, v in part.state_dict().items()} for part in (model.frozen, model.net)
    )
    train(tmp_path, model, steps=2)
    assert all(torch.equal(model.frozen.state_dict()[k], v) for k, v in frozen.items())
    assert not any(torch.equal(model.net.state_dict()[k], v) for k, v in net.items())
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)["trained"]
    assert set(kept) == {f"net.{name}" for name in net}


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(steps=100, batch_size=1, lr=2.0, warmup=10, decay=0.2)
    rates = [config.lr_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(1.0)
    assert rates[9:80] == [2.0] * 71
    assert rates[90] == pytest.approx(1.0) and rates[100] == 0
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_a_step_is_as_long_as_its_learning_rate(tmp_path):
    """Adam's first step moves every weight by just that."""
    start = [p.detach() for p in Painter().net.parameters()]
    for warmup, length in ((1, 1e-2), (10, 1e-3)):
        changes = {"steps": 1, "warmup": warmup, "weight_decay": 0.0}
        now = weights(train(tmp_path / str(warmup), **changes))
        moved = max(float((a - b).abs().amax()) for a, b in zip(start, now, strict=True))
        assert moved == pytest.approx(length, rel=0.01)


def test_muons_first_step_turns_matrices_and_moves_the_rest_like_nadam(tmp_path):
    start = [p.detach() for p in Painter().net.parameters()]
    trainer = train(tmp_path, steps=1, warmup=1, weight_decay=0.0, optimizer="muon")
    kernel, bias = (
        now - before for before, now in zip(start[:2], weights(trainer)[:2], strict=True)
    )
    singular = torch.linalg.svdvals(kernel.flatten(1))
    assert singular.sum() > 4 * singular.max()  # in many directions at once
    assert kernel.square().mean().sqrt() == pytest.approx(0.2 * CONFIG.lr, rel=0.5)
    assert bias.abs().amax() == pytest.approx((1 + CONFIG.betas[0]) * CONFIG.lr, rel=0.01)


def test_muon_leaves_embeddings_alone_even_where_a_layer_shares_them():
    embedding, layer, head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleList([embedding, layer, head])
    turned, plain, short = build_optimizer("muon", model, torch.device("cpu"), lr=1.0).param_groups
    assert turned["params"] == [layer.weight] and not turned.get("use_fallback")
    assert plain["params"] == [embedding.weight] and plain["use_fallback"]
    assert short["params"] == [layer.bias] and short["weight_decay"] == 0


def test_an_unknown_optimizer_is_refused(tmp_path):
    with pytest.raises(FlexEditError, match="Unknown optimizer 'sgd'; choose adamw or muon"):
        train(tmp_path, optimizer="sgd")


def test_muon_without_timm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(FlexEditError, match="needs timm: pip install timm"):
        train(tmp_path, optimizer="muon")


def test_a_gradient_that_is_too_long_is_shortened(tmp_path):
    train(tmp_path, steps=1, max_grad_norm=1e-3)
    norm = torch.stack([gradient.norm() for gradient in gradients(tmp_path)]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_every_step_is_logged_when_asked_and_the_last_always(tmp_path):
    train(tmp_path, steps=7, log_every=3)
    assert [row["step"] for row in log(tmp_path)] == [3, 6, 7]
    assert set(log(tmp_path)[0]) == {"step", "mask", "size"}


def test_a_batch_in_two_parts_is_the_same_batch(tmp_path):
    for name, parts in (("whole", 1), ("halves", 2)):
        train(tmp_path / name, Painter(dropout=0), steps=1, accumulate=parts)
    whole, halves = (gradients(tmp_path / name) for name in ("whole", "halves"))
    for one, other in zip(whole, halves, strict=True):
        assert one.abs().amax() > 0
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)
    (one,), (other,) = log(tmp_path / "whole"), log(tmp_path / "halves")
    assert one == pytest.approx(other, abs=1e-6)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(FlexEditError, match="batch_size 4 does not divide into 1 processes × 3"):
        train(tmp_path, accumulate=3)


# Averaged weights


def test_averaged_weights_are_lent_and_given_back_whatever_goes_wrong(tmp_path):
    trainer = train(tmp_path)
    trained = weights(trainer)
    with pytest.raises(KeyboardInterrupt), trainer.averaged():
        averaged = weights(trainer)
        raise KeyboardInterrupt
    assert not any(torch.equal(a, b) for a, b in zip(trained, averaged, strict=True))
    assert same(weights(trainer), trained)


def test_averaged_weights_lag_behind(tmp_path):
    trainer = train(tmp_path, decay=0.0)
    start = [p.detach() for p in Painter().net.parameters()]

    def distance(now: list[Tensor]) -> float:
        return sum(float((a - b).square().sum()) for a, b in zip(start, now, strict=True))

    assert 0 < distance(averages(trainer)) < distance(weights(trainer))


def test_without_averaging_the_weights_are_the_trained_ones(tmp_path):
    trainer = train(tmp_path, ema=0.0, steps=3)
    assert same(averages(trainer), weights(trainer))


# Stopping and going on


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = train(tmp_path / "whole", accumulate=2)
    folder = tmp_path / "killed"
    process = started(train, folder, Stuck(), accumulate=2)
    while not (folder / LOG).is_file() or len((folder / LOG).read_text().splitlines()) < 13:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert torch.load(folder / CHECKPOINT, weights_only=True)["step"] == 10
    assert len(log(folder)) == 13

    resumed = train(folder, accumulate=2)
    assert log(folder) == log(tmp_path / "whole")
    assert same(weights(resumed), weights(whole))
    assert same(averages(resumed), averages(whole))


def test_a_run_that_is_late_leaves_a_checkpoint_and_goes_on_later(tmp_path, monkeypatch):
    trainer, clock = Trainer(Painter(), WORLD, CONFIG, tmp_path / "late"), count()
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        trainer.run(deadline=10)
    assert 0 < trainer.step < CONFIG.steps and not trainer.finished
    assert torch.load(tmp_path / "late" / CHECKPOINT, weights_only=True)["step"] == trainer.step
    assert train(tmp_path / "late").finished
    train(tmp_path / "whole")
    assert log(tmp_path / "late") == log(tmp_path / "whole")


def test_workers_do_not_change_a_run(tmp_path):
    train(tmp_path / "alone", steps=4)
    train(tmp_path / "helped", steps=4, num_workers=2)
    assert log(tmp_path / "alone") == log(tmp_path / "helped")


def test_a_finished_run_is_not_run_again(tmp_path):
    before = weights(train(tmp_path, steps=4))
    written = (tmp_path / LOG).read_text()
    again = train(tmp_path, steps=4)
    assert same(weights(again), before)
    assert (tmp_path / LOG).read_text() == written


def test_a_half_written_line_of_the_log_is_dropped(tmp_path):
    train(tmp_path, steps=5)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 6, "ma')
    train(tmp_path, steps=7, decay=0.0)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_run_that_died_before_its_first_checkpoint_leaves_no_rows_behind(tmp_path):
    train(tmp_path, steps=3)
    (tmp_path / CHECKPOINT).unlink()
    train(tmp_path, steps=3)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (Larger(), {}),
        (Painter(width=9), {}),
        (Painter(), {"ema": 0.0}),
        (Painter(), {"optimizer": "muon"}),
    ],
    ids=["names", "shapes", "averages", "optimizer"],
)
def test_a_foreign_checkpoint_is_refused(tmp_path, model, changes):
    train(tmp_path, steps=1)
    with pytest.raises(FlexEditError, match=r"belongs to another model .* new folder"):
        train(tmp_path, model, steps=2, **changes)


@pytest.mark.parametrize(
    ("setting", "kept", "other"),
    [
        ("seed", 0, 5),
        ("batch_size", 4, 8),
        ("betas", (0.9, 0.99), (0.9, 0.95)),
        ("weight_decay", 0.01, 0.5),
        ("mixed_precision", "no", "bf16"),
    ],
)
def test_a_run_does_not_go_on_as_another(tmp_path, setting, kept, other):
    train(tmp_path, steps=2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    forget_precision()
    message = f"a run with {setting} {kept}, not {other}. Set it to {kept}, or train into a new"
    with pytest.raises(FlexEditError, match=re.escape(message)):
        train(tmp_path, steps=4, **{setting: other})
    assert (tmp_path / CHECKPOINT).read_bytes() == before


# What it computes in


@pytest.fixture
def machine(monkeypatch) -> Iterator[Callable[[torch.dtype], list[torch.dtype]]]:
    """Makes this one that is fast in one type; what it returns grows by each type it measures."""

    def becomes(fast: torch.dtype) -> list[torch.dtype]:
        measured: list[torch.dtype] = []

        def seconds(dtype: torch.dtype) -> float:
            measured.append(dtype)
            return 0.02 if dtype is fast else 2.4

        monkeypatch.setattr(precision, "seconds", seconds)
        precision.faster_on_cpu.cache_clear()
        forget_precision()
        return measured

    yield becomes
    precision.faster_on_cpu.cache_clear()


@pytest.mark.parametrize(("fast", "used"), [(torch.float32, "no"), (torch.bfloat16, "bf16")])
def test_training_computes_in_what_the_machine_is_fast_at(
    tmp_path, machine, monkeypatch, fast, used
):
    from timm.optim import Muon

    module, iterated = sys.modules[Muon.__module__], set()
    iterate = module.zeropower_via_newtonschulz

    def recorded(*words, dtype, **settings):
        iterated.add(dtype)
        return iterate(*words, dtype=dtype, **settings)

    monkeypatch.setattr(module, "zeropower_via_newtonschulz", recorded)
    machine(fast)
    trainer = train(tmp_path, steps=2, optimizer="muon", mixed_precision="auto")
    assert trainer.accelerator.mixed_precision == used and iterated == {fast}
    assert module.zeropower_via_newtonschulz is recorded  # others' Muon is as it was


def test_a_machine_is_measured_once_and_what_was_chosen_is_logged(tmp_path, machine, caplog):
    caplog.set_level("INFO")
    measured = machine(torch.float32)
    for name in ("first", "second"):
        train(tmp_path / name, steps=1, optimizer="muon", mixed_precision="auto")
    assert sorted(map(str, measured)) == ["torch.bfloat16", "torch.float32"]
    assert caplog.text.count("Computing in float32: a product of 1024 × 1024 takes 0.020 s") == 1


def test_a_run_goes_on_where_another_precision_is_faster(tmp_path, machine):
    machine(torch.bfloat16)
    train(tmp_path, steps=2, optimizer="muon", mixed_precision="bf16")  # as before there was auto
    machine(torch.float32)
    train(tmp_path, steps=4, optimizer="muon", mixed_precision="auto")
    machine(torch.bfloat16)
    assert train(tmp_path, steps=6, optimizer="muon", mixed_precision="auto").finished
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def rewrite(folder: Path, **changes: object) -> None:
    """The checkpoint as an older version wrote it, which did not say what a run keeps."""
    state = torch.load(folder / CHECKPOINT, weights_only=True) | changes
    del state["kept"]
    torch.save(state, folder / CHECKPOINT)


def test_an_older_checkpoint_is_taken_up(tmp_path):
    train(tmp_path, steps=2)
    rewrite(tmp_path)
    assert train(tmp_path, steps=4).finished
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4]


def test_parameters_are_found_by_what_they_were_called_before(tmp_path, monkeypatch):
    train(tmp_path, steps=2)
    monkeypatch.setattr(Painter, "former_names", {"mesh.": "net."})
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    older = {name.replace("net.", "mesh."): tensor for name, tensor in state["trained"].items()}
    torch.save(state | {"trained": older}, tmp_path / CHECKPOINT)
    assert train(tmp_path, steps=4).finished


def test_an_older_checkpoint_of_another_precision_is_refused(tmp_path):
    train(tmp_path, steps=2)
    rewrite(tmp_path, scaler={"scale": 65536.0})  # of fp16
    with pytest.raises(FlexEditError, match="belongs to another model or configuration"):
        train(tmp_path, steps=4)


# What is no number


@pytest.mark.parametrize(
    ("become", "message"),
    [
        (lambda loss: loss * float("nan"), "mask became nan in step 3"),
        (lambda loss: loss / 0, "mask became inf in step 3"),
        (lambda loss: loss + (loss - loss).sqrt(), "gradient norm became nan in step 3"),
    ],
    ids=["nan", "infinite", "gradient"],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_goes_wrong_spoils_nothing(tmp_path, become, message, accumulate):
    changes = {"steps": 4, "checkpoint_every": 1, "accumulate": accumulate}
    with pytest.raises(FlexEditError, match=message):
        train(tmp_path / "broken", Broken(become), **changes)
    assert torch.load(tmp_path / "broken" / CHECKPOINT, weights_only=True)["step"] == 2
    mended, whole = train(tmp_path / "broken", **changes), train(tmp_path / "whole", **changes)
    assert same(weights(mended), weights(whole))
    assert same(averages(mended), averages(whole))
    assert log(tmp_path / "broken") == log(tmp_path / "whole")


def train_in_a_process(folder: Path) -> None:
    from accelerate.state import PartialState

    rank = PartialState(cpu=True).process_index
    model = Broken(lambda loss: loss * float("nan") if rank == 1 else loss)
    with pytest.raises(FlexEditError, match="mask became nan in step 3"):
        train(folder, model, checkpoint_every=1)
    (folder / f"left {rank}").touch()


def test_all_processes_leave_a_run_that_goes_wrong_in_one(tmp_path):
    in_two_processes(train_in_a_process, tmp_path)
    assert len(list(tmp_path.glob("left *"))) == 2
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(8, None, 8), (8, "4", 2), (2, "4", 1), (200, "2", MAX_WORKERS)],
)
@pytest.mark.parametrize("is_bound", [True, False])  # to cores: some systems cannot
def test_processes_share_the_cores_among_their_workers(
    monkeypatch, cores, processes, expected, is_bound
):
    if is_bound:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert num_workers() == expected


# Validation


def test_validation_sees_averaged_weights_at_its_steps(tmp_path):
    seen = {}
    config = dataclasses.replace(CONFIG, steps=5, validate_every=2)

    def validate(step: int) -> None:
        seen[step] = weights(trainer)

    trainer = Trainer(Painter(), WORLD, config, tmp_path, validate)
    trainer.run()
    assert list(seen) == [2, 4]
    plain = train(tmp_path / "plain", steps=5, validate_every=0)
    assert same(weights(trainer), weights(plain))
    assert not same(seen[4], weights(trainer))


# The whole system


class PowerCut(Exception):
    pass


def train_system(
    folder: Path, tiny: Path, *, processes: int = 1, cut_at: int | None = None, **changes: object
) -> None:
    """``cut_at``: the step in which the power fails."""
    forget_precision()
    torch.manual_seed(0)
    system = TrainingModel(ModelFolder(tiny), RECIPE, len(CLASSES))
    for layer in (system.unet.unet.conv_out, system.adapter.scene.to_out):
        nn.init.normal_(layer.weight, std=0.1)  # both start at zero, and stop every gradient
    settings = {"steps": 1, "lr": 1e-3, "warmup": 1, "batch_size": 4} | changes
    config = dataclasses.replace(CONFIG, **settings)
    trainer = Trainer(system, World(64, seed=2), config, folder)
    assert trainer.accelerator.num_processes == processes

    def cut(*_: object) -> None:
        if trainer.step == cut_at:
            raise PowerCut

    system.register_forward_pre_hook(cut)
    trainer.run()


def assert_same_gradients(first: Path, second: Path) -> None:
    one, other = gradients(first), gradients(second)
    assert sum(float(gradient.abs().sum()) for gradient in one) > 0
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    for a, b in zip(log(first), log(second), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory) -> Path:
    """One step of the whole system in one process"""
    folder = tmp_path_factory.mktemp("alone")
    train_system(folder, tiny)
    return folder


def test_two_processes_have_the_gradients_of_one(alone, tiny, tmp_path):
    in_two_processes(partial(train_system, tmp_path, tiny, processes=2))
    assert_same_gradients(alone, tmp_path)


def test_a_system_in_two_parts_has_the_gradients_of_the_whole(alone, tiny, tmp_path):
    train_system(tmp_path, tiny, accumulate=2)
    assert_same_gradients(alone, tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_system_goes_on_after_a_power_cut_with_all_it_trains(tiny, tmp_path, optimizer):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_system(whole, tiny, steps=4, optimizer=optimizer)
    with pytest.raises(PowerCut):
        train_system(broken, tiny, steps=4, checkpoint_every=2, cut_at=3, optimizer=optimizer)
    assert torch.load(broken / CHECKPOINT, weights_only=True)["step"] == 2
    train_system(broken, tiny, steps=4, optimizer=optimizer)
    assert log(broken) == log(whole)
    first, second = (torch.load(path / CHECKPOINT, weights_only=True) for path in (whole, broken))
    assert any("lora_A" in name for name in first["trained"])
    for name, tensor in first["trained"].items():
        assert torch.equal(second["trained"][name], tensor), name
    assert same(first["ema"]["shadow_params"], second["ema"]["shadow_params"])
