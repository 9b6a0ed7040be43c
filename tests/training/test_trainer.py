import dataclasses
import math
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemWriter

from flexedit.data.sample import Sample
from flexedit.data.world import CLASSES, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.training import checkpoint, precision
from flexedit.training import trainer as trainer_module
from flexedit.training.batch import Batch
from flexedit.training.draws import Draw, Losses
from flexedit.training.model import TrainingModel
from flexedit.training.monitor import LOG, curve
from flexedit.training.optimizer import build_optimizer
from flexedit.training.trainer import MAX_WORKERS, TrainConfig, Trainee, Trainer, num_workers
from tests.processes import in_two_processes, started
from tests.training.kept import last_checkpoint, stored
from tests.training.plan import forget_precision

WORLD = World(32, seed=1)
CONFIG = TrainConfig(
    steps=24, batch_size=4, lr=1e-2, warmup=3, ema=0.9, checkpoint_every=5, log_every=1
)
RECIPE = Losses(
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
    moments = last_checkpoint(folder)["optimizer"].values()
    return [it["exp_avg"] / (1 - CONFIG.betas[0]) for it in moments]


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
    kept = last_checkpoint(tmp_path)["trained"]
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
    with pytest.raises(FlexEditError, match="Unknown optimizer 'sgd'; choose from adamw"):
        train(tmp_path, optimizer="sgd")


def test_muon_without_timm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(FlexEditError, match="Muon needs timm: pip install timm"):
        train(tmp_path, optimizer="muon")


def test_averages_of_8_bits_need_a_package_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(FlexEditError, match="AdamW8bit needs bitsandbytes: pip install bitsand"):
        train(tmp_path, optimizer="adamw8bit")


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


# Trackers


def test_a_tracker_is_told_how_a_run_goes_and_shown_what_it_makes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = dataclasses.replace(
        CONFIG, steps=4, log_every=2, validate_every=4, report_to=("tensorboard",)
    )
    picture = np.full((6, 9, 3), 200, np.uint8)
    Trainer(Painter(), WORLD, config, tmp_path / "run", lambda _: picture).run()
    read = EventAccumulator(str(tmp_path / "run" / "flexedit")).Reload()
    told = {tag: [event.value for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert {"mask", "size", "lr", "samples_per_second", "memory_gb", "mfu"} <= set(told)
    rows = log(tmp_path / "run")
    for name in ("mask", "size"):
        assert told[name] == pytest.approx([row[name] for row in rows], rel=1e-5)
    assert told["lr"] == pytest.approx([config.lr_at(1), config.lr_at(3)])
    assert 0 < told["memory_gb"][0] < 64 and 0 < told["mfu"][0] < 1.5
    shown = read.Images("validation")
    assert [(event.step, event.width, event.height) for event in shown] == [(4, 9, 6)]


def test_a_tracker_goes_on_with_the_run(tmp_path):
    for steps in (2, 4):
        train(tmp_path, steps=steps, report_to=("tensorboard",))
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("abacus", "Unknown tracker 'abacus'; choose from"), ("wandb", "pip install wandb")],
)
def test_a_tracker_that_is_not_there_is_named(tmp_path, monkeypatch, tracker, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FlexEditError, match=message):
        train(tmp_path, report_to=(tracker,))


class Sourced:
    """The world as two data sets."""

    names = ("even", "odd")
    parts = (SimpleNamespace(name="even"), SimpleNamespace(name="odd"))

    def __getitem__(self, index: int) -> Sample:
        return dataclasses.replace(WORLD[index], source=self.names[index % 2])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_told_by_their_data_set(tmp_path, accumulate):
    config = dataclasses.replace(CONFIG, steps=2, accumulate=accumulate)
    Trainer(Painter(), Sourced(), config, tmp_path).run()
    for row in log(tmp_path):
        names = {f"{loss}{part}" for loss in ("mask", "size") for part in ("", "/even", "/odd")}
        assert set(row) == {"step", *names}
        assert (row["mask/even"] + row["mask/odd"]) / 2 == pytest.approx(row["mask"], rel=1e-5)
        assert row["mask/even"] != row["mask/odd"]


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
    assert last_checkpoint(folder)["step"] == 10
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
    assert last_checkpoint(tmp_path / "late")["step"] == trainer.step
    assert train(tmp_path / "late").finished
    train(tmp_path / "whole")
    assert log(tmp_path / "late") == log(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_leave_saves_and_goes_on_later(tmp_path, number):
    before = signal.getsignal(number)
    trainer = Trainer(Painter(), WORLD, CONFIG, tmp_path / "asked")

    def ask(*_: object) -> None:
        if trainer.step == 6:
            os.kill(os.getpid(), number)

    trainer.model.register_forward_pre_hook(ask)
    trainer.run()
    assert trainer.step == 7 and signal.getsignal(number) is before
    assert last_checkpoint(tmp_path / "asked")["step"] == 7
    resumed, whole = train(tmp_path / "asked"), train(tmp_path / "whole")
    assert same(weights(resumed), weights(whole))
    assert log(tmp_path / "asked") == log(tmp_path / "whole")


def test_as_many_checkpoints_stay_as_are_asked_for(tmp_path):
    train(tmp_path, steps=22, checkpoints_total_limit=3)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-15", "checkpoint-20", "checkpoint-22",
    ]  # fmt: skip


def die_while_it_saves(folder: Path) -> None:
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    train(folder, steps=10)


def test_a_run_that_is_killed_while_it_saves_has_lost_nothing(tmp_path):
    train(tmp_path / "run", steps=5, decay=0.0)
    process = started(die_while_it_saves, tmp_path / "run")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "run").glob("checkpoint*"))
    assert names == ["checkpoint-5", "checkpoint.unfinished"]
    train(tmp_path / "run", steps=10)
    names = [path.name for path in (tmp_path / "run").glob("checkpoint*")]
    assert names == ["checkpoint-10"]


@pytest.fixture
def slow_disk(monkeypatch) -> Iterator[threading.Event]:
    """On which nothing is finished before the event."""
    goes_on, finish = threading.Event(), FileSystemWriter.finish

    def waiting(*words: object, **named: object) -> None:
        assert goes_on.wait(60)
        finish(*words, **named)

    monkeypatch.setattr(FileSystemWriter, "finish", waiting)
    yield goes_on
    goes_on.set()


def test_a_run_goes_on_while_its_checkpoint_is_written_as_it_was(tmp_path, slow_disk):
    settings = {"steps": 9, "checkpoints_total_limit": 9}
    config = dataclasses.replace(CONFIG, async_save=True, **settings)
    trainer = Trainer(Painter(), WORLD, config, tmp_path / "run")

    def look(*_: object) -> None:
        assert not checkpoint.checkpoints(trainer.folder)
        if trainer.step == 8:
            slow_disk.set()

    trainer.model.register_forward_pre_hook(look)
    trainer.run()
    train(tmp_path / "waiting", **settings)
    assert log(tmp_path / "run") == log(tmp_path / "waiting")
    for step in (5, 9):
        one, other = (stored(tmp_path / name / f"checkpoint-{step}") for name in ("run", "waiting"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


def dies_in_the_background(folder: Path) -> None:
    """Is killed while its second checkpoint is written."""
    finish = FileSystemWriter.finish

    def dying(writer: FileSystemWriter, *words: object, **named: object) -> None:
        if checkpoint.checkpoints(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        finish(writer, *words, **named)

    FileSystemWriter.finish = dying
    train(folder, async_save=True)


def test_a_kill_while_a_checkpoint_is_written_in_the_background_loses_nothing(tmp_path):
    process = started(dies_in_the_background, tmp_path / "killed")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed")["step"] == 5
    resumed, whole = train(tmp_path / "killed", async_save=True), train(tmp_path / "whole")
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    assert same(weights(resumed), weights(whole)) and same(averages(resumed), averages(whole))


def saves_either_way(folder: Path) -> None:
    for name, async_save in (("plain", False), ("background", True)):
        trainer = train(folder / name, async_save=async_save)
        assert trainer.accelerator.num_processes == 2


def test_two_processes_save_in_the_background_what_they_save_else(tmp_path):
    in_two_processes(saves_either_way, tmp_path)
    one, other = (stored(checkpoint.latest(tmp_path / name)) for name in ("plain", "background"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, async_save):
    folder, large = tmp_path / "run", partial(Painter, width=2000)  # 1.2 MB a checkpoint
    train(folder, large(), steps=1, batch_size=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        message = r"checkpoint-2 cannot be written \((File too|a file may).*Make room.*checkpoint-1"
        with pytest.raises(FlexEditError, match=message):
            train(folder, large(), steps=2, batch_size=2, async_save=async_save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-1"]
    assert train(folder, large(), steps=2, batch_size=2).finished


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", checkpoint.FACTS])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_checkpoint_that_was_cut_off_is_named_and_left(tmp_path, name, share):
    train(tmp_path, steps=7, checkpoints_total_limit=2)
    file = tmp_path / "checkpoint-7" / name
    os.truncate(file, int(share * file.stat().st_size))
    message = r"checkpoint-7 cannot be read .* Delete it, and the run goes on from checkpoint-5"
    with pytest.raises(FlexEditError, match=message):
        train(tmp_path, steps=9)
    shutil.rmtree(tmp_path / "checkpoint-7")
    assert train(tmp_path, steps=9).finished


def test_an_older_checkpoint_that_was_cut_off_is_named(tmp_path):
    (tmp_path / checkpoint.FORMER).write_bytes(bytes(1000))
    with pytest.raises(FlexEditError, match=r"checkpoint\.pt cannot be read .*starts anew"):
        train(tmp_path, steps=2)


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
    shutil.rmtree(tmp_path / "checkpoint-3")
    train(tmp_path, steps=3)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (Larger(), {}),
        (Painter(width=9), {}),
        (Painter(), {"ema": 0.0}),
    ],
    ids=["names", "shapes", "averages"],
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
        ("optimizer", "adamw", "muon"),
    ],
)
def test_a_run_does_not_go_on_as_another(tmp_path, setting, kept, other):
    train(tmp_path, steps=2)
    before = last_checkpoint(tmp_path)["step"]
    forget_precision()
    message = f"a run with {setting} {kept}, not {other}. Set it to {kept}, or train into a new"
    with pytest.raises(FlexEditError, match=re.escape(message)):
        train(tmp_path, steps=4, **{setting: other})
    assert last_checkpoint(tmp_path)["step"] == before


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


def rewritten(trainer: Trainer, **changes: object) -> None:
    """Leaves the checkpoint as 0.1.0 wrote it, which did not say what a run keeps."""
    shutil.rmtree(checkpoint.latest(trainer.folder))
    state = {
        "step": trainer.step,
        "trained": {name: tensor.detach() for name, tensor in trainer.trained.items()},
        "optimizer": trainer.optimizer.state_dict(),
        "ema": trainer.ema.state_dict(),
        "scaler": None,
    }
    torch.save(state | changes, trainer.folder / checkpoint.FORMER)


def test_an_older_checkpoint_is_taken_up(tmp_path):
    rewritten(train(tmp_path, steps=2, decay=0.0))
    mended, whole = train(tmp_path, steps=4), train(tmp_path / "whole", steps=4)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4]
    assert same(weights(mended), weights(whole)) and same(averages(mended), averages(whole))
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-4"]


def test_an_older_checkpoint_yields_to_a_later_one(tmp_path):
    """As when a run is killed after it has written its own, before it removes that."""
    rewritten(train(tmp_path, steps=2, decay=0.0))
    former = (tmp_path / checkpoint.FORMER).read_bytes()
    train(tmp_path, steps=4)
    (tmp_path / checkpoint.FORMER).write_bytes(former)
    assert checkpoint.latest(tmp_path).name == "checkpoint-4"
    assert train(tmp_path, steps=4).step == 4


@pytest.mark.parametrize(
    "setting",
    [
        {"log_every": 0}, {"checkpoint_every": 0}, {"lr": math.nan}, {"ema": 1.0},
        {"betas": (2, 0)}, {"max_grad_norm": 0.0}, {"num_workers": -1}, {"warmup": -1},
        {"decay": 1.5}, {"weight_decay": math.nan}, {"validate_every": -1},
    ],
)  # fmt: skip
def test_settings_that_train_nothing_are_refused(setting):
    with pytest.raises(FlexEditError, match=f"{next(iter(setting))} is"):
        dataclasses.replace(CONFIG, **setting)


def test_parameters_are_found_by_what_they_were_called_before(tmp_path, monkeypatch):
    trainer = train(tmp_path, steps=2)
    monkeypatch.setattr(Painter, "former_names", {"mesh.": "net."})
    older = {name.replace("net.", "mesh."): tensor for name, tensor in trainer.trained.items()}
    rewritten(trainer, trained={name: tensor.detach() for name, tensor in older.items()})
    assert train(tmp_path, steps=4).finished


def test_an_older_checkpoint_of_another_precision_is_refused(tmp_path):
    rewritten(train(tmp_path, steps=2), scaler={"scale": 65536.0})  # of fp16
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
    assert last_checkpoint(tmp_path / "broken")["step"] == 2
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
    assert last_checkpoint(tmp_path)["step"] == 2


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


def test_gradients_are_the_same_when_layers_are_computed_twice(alone, tiny, tmp_path, monkeypatch):
    computed, forward = [], BasicTransformerBlock.forward

    def counted(*words: object, **named: object) -> object:
        computed.append(words[0])
        return forward(*words, **named)

    monkeypatch.setattr(BasicTransformerBlock, "forward", counted)
    train_system(tmp_path, tiny, gradient_checkpointing=True)
    assert len(computed) == 2 * len(set(computed)) > 0
    assert_same_gradients(alone, tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_system_goes_on_after_a_power_cut_with_all_it_trains(tiny, tmp_path, optimizer):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_system(whole, tiny, steps=4, optimizer=optimizer)
    with pytest.raises(PowerCut):
        train_system(broken, tiny, steps=4, checkpoint_every=2, cut_at=3, optimizer=optimizer)
    assert last_checkpoint(broken)["step"] == 2
    train_system(broken, tiny, steps=4, optimizer=optimizer)
    assert log(broken) == log(whole)
    first, second = last_checkpoint(whole), last_checkpoint(broken)
    assert any("lora_A" in name for name in first["trained"])
    for name, tensor in first["trained"].items():
        assert torch.equal(second["trained"][name], tensor), name
    assert same(list(first["averages"].values()), list(second["averages"].values()))
