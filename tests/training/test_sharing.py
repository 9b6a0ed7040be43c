"""One training, shared by processes in every way there is, killed and gone on with."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing import ProcessExitedException

from flexedit.data.mixture import Mixture, MixtureConfig
from flexedit.data.world import CLASSES, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.training import checkpoint
from flexedit.training.batch import Batch
from flexedit.training.draws import Draw, Losses
from flexedit.training.model import TrainingModel
from flexedit.training.monitor import curve
from flexedit.training.preview import PictureGrid
from flexedit.training.processes import is_sharded, whole_tensors
from flexedit.training.trainer import TrainConfig, Trainer
from flexedit.validation import validated
from tests.processes import in_two_processes
from tests.training.kept import last_checkpoint
from tests.training.mixed import MIXED, make_data
from tests.training.test_trainer import CONFIG as PAINTER
from tests.training.test_trainer import Painter

CONFIG = TrainConfig(steps=4, batch_size=4, lr=1e-3, warmup=1, ema=0.9, log_every=1)
RECIPE = Losses(stage="joint", parts=("unet", "adapter", "bridge", "vllm"), drop_edit=0.3)


def trainer(folder: Path, tiny: Path, **changes: object) -> Trainer:
    torch.manual_seed(0)
    system = TrainingModel(ModelFolder(tiny), RECIPE, len(CLASSES))
    for layer in (system.unet.unet.conv_out, system.adapter.scene.to_out):
        torch.nn.init.normal_(layer.weight, std=0.1)  # both start at zero, and stop every gradient
    config = dataclasses.replace(CONFIG, **changes)
    return Trainer(system, World(64, seed=2), config, folder)


def train(folder: Path, tiny: Path, **changes: object) -> None:
    run = trainer(folder, tiny, **changes)
    if run.config.strategy == "fsdp":
        weights = list(run.model.parameters())
        assert weights and all(is_sharded(weight) for weight in weights)
        layers = [m for m in run.model.modules() if hasattr(m, "unshard")]
        assert len(layers) > 3  # its own, the VLLM's layers and the UNet's
    run.run()


def assert_alike(one: Path, other: Path, share: float = 0.001) -> None:
    """But for a share of how far Adam may have come: where a gradient is all but 0, its step is as
    long as anywhere, and which way it goes may depend on the order of a sum.
    """
    first, second = last_checkpoint(one), last_checkpoint(other)
    assert first["step"] == second["step"]
    for kind in ("trained", "averages"):
        assert first[kind].keys() == second[kind].keys()
        for name, tensor in first[kind].items():
            error = (second[kind][name] - tensor).square().mean().sqrt()
            assert error < share * CONFIG.lr * first["step"], name


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, tiny)
    return folder


def test_two_processes_that_share_every_weight_train_what_one_does(alone, tiny, tmp_path):
    in_two_processes(partial(train, tmp_path, tiny, strategy="fsdp"))
    assert_alike(alone, tmp_path)
    assert len(list(checkpoint.latest(tmp_path).glob("*.distcp"))) == 2  # each has written its own
    for one, other in zip(curve(alone), curve(tmp_path), strict=True):
        one.pop("seconds"), other.pop("seconds")
        assert one == pytest.approx(other, abs=1e-4)


def dies(in_step: int) -> None:
    """The next process that trains here is killed in that step."""
    train_step = Trainer.train_step

    def dying(run: Trainer, *arguments: object) -> object:
        if run.step == in_step - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(run, *arguments)

    Trainer.train_step = dying  # type: ignore[method-assign]


def killed(folder: Path, tiny: Path, in_step: int, **changes: object) -> None:
    dies(in_step)
    train(folder, tiny, **changes)


def test_a_killed_run_goes_on_in_another_number_of_processes(alone, tiny, tmp_path):
    settings = {"strategy": "fsdp", "checkpoint_every": 2}
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_two_processes(partial(killed, tmp_path, tiny, 4, **settings))
    assert last_checkpoint(tmp_path)["step"] == 2
    train(tmp_path, tiny)
    assert_alike(alone, tmp_path)


def shown(folder: Path, tiny: Path) -> None:
    run = trainer(folder, tiny, strategy="fsdp", steps=1, validate_every=1, mixed_precision="bf16")
    grid = PictureGrid(run.model, folder / "pictures", World(64, seed=3), count=2)
    run.validate = grid
    run.run()
    tensors = whole_tensors(run.model.tensors())
    assert not any(map(is_sharded, tensors.values()))
    if run.accelerator.is_main_process:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "weights.safetensors")


def test_a_model_that_is_cut_up_is_shown_and_handed_on_whole(tiny, tmp_path):
    in_two_processes(shown, tmp_path, tiny)
    assert (tmp_path / "pictures" / "000001.png").is_file()
    state, handed_on = last_checkpoint(tmp_path), load_file(tmp_path / "weights.safetensors")
    name = "unet.conv_out.weight"
    assert torch.equal(handed_on[name], state["trained"][f"unet.{name}"])


def leaves(folder: Path) -> None:
    """The second process is asked to leave in the third step."""
    rank = PartialState(cpu=True).process_index

    class Asked(Painter):
        def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
            self.calls = getattr(self, "calls", 0) + 1
            if rank == 1 and self.calls == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch, draw)

    run = Trainer(Asked(), World(32, seed=1), PAINTER, folder)
    run.run()
    assert run.step == 3 and not run.finished
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_all_processes_leave_with_a_checkpoint_when_one_is_asked_to(tmp_path):
    in_two_processes(leaves, tmp_path)
    assert last_checkpoint(tmp_path)["step"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "fsdp"}, "shares a model among processes, and there is one"),
        ({"strategy": "deepspeed"}, "needs DeepSpeed"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    config = dataclasses.replace(PAINTER, **changes)
    with pytest.raises(FlexEditError, match=message):
        Trainer(Painter(), World(32), config, tmp_path)


def mixed(folder: Path, tiny: Path, data: Path, dies_in: int = 0) -> None:
    if dies_in:
        dies(dies_in)
    torch.manual_seed(0)
    model = TrainingModel(ModelFolder(tiny), RECIPE, 0)
    samples = Mixture(validated(MixtureConfig, MIXED, "mixed"), data, 64)
    config = dataclasses.replace(CONFIG, steps=20, strategy="fsdp", checkpoint_every=4)
    run = Trainer(model, samples, config, folder)
    assert run.accelerator.num_processes == 2
    assert all(is_sharded(weight) for weight in model.parameters())
    run.run()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def test_a_mixture_that_is_killed_twice_becomes_what_an_unbroken_run_does(tiny, data, tmp_path):
    in_two_processes(mixed, tmp_path / "whole", tiny, data)
    for step, last in ((7, 4), (15, 12)):
        with pytest.raises(ProcessExitedException, match="SIGKILL"):
            in_two_processes(mixed, tmp_path / "killed", tiny, data, step)
        assert last_checkpoint(tmp_path / "killed")["step"] == last
    in_two_processes(mixed, tmp_path / "killed", tiny, data)
    whole, killed = (last_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    for kind in ("trained", "averages"):
        assert all(torch.equal(killed[kind][name], it) for name, it in whole[kind].items())
    rows = curve(tmp_path / "killed")
    assert [row["step"] for row in rows] == list(range(1, 21))
    seen = {name for row in rows for name in row if name.startswith("reply/")}
    names = ("coco-instances", "refcoco", "instructpix2pix", "llava", "own")
    assert seen == {f"reply/{name}" for name in names}
