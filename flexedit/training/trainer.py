"""The one trainer: every module here is trained by it, from the VAE to the whole system.

What it trains is a module whose ``forward(batch, draw)`` returns losses by name, each a vector
over rows. Data and draws depend on (seed, step) alone, so a run that is killed and resumed walks
the same way as one that is not; so does one that several processes share, if all its dice are in
the draw (the VAE has some of its own) and no loss of a row depends on those beside it (as CLIP's).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import FlexEditError
from .batch import Batch, Samples, loader
from .optimizer import Optimizer, build_optimizer
from .precision import Precision, resolved

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
MAX_WORKERS = 16  # of one loader, however many cores there are
# What a run keeps to its end; its length, its learning rates and its reports may change, and a
# precision of "auto", so that it may go on on another kind of machine
KEPT = ("seed", "batch_size", "betas", "weight_decay", "mixed_precision")


@dataclass(frozen=True)
class TrainConfig:
    steps: int
    batch_size: int  # rows of one optimizer step, over all processes and accumulated parts
    lr: float
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100  # steps
    decay: float = 0.35  # the last part of the run, over which lr falls to 0
    max_grad_norm: float = 1.0
    accumulate: int = 1
    ema: float = 0.0  # decay of the averaged weights; 0 is off
    mixed_precision: Precision = "no"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 20  # steps; a row of the log has the losses of its own step
    validate_every: int = 0
    num_workers: int = 0

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then constant, then linear to 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.lr * rise * fall


class Trainee(nn.Module):
    """What the trainer trains.

    former_names: what names of parameters began with in checkpoints of older versions, and do now
    """

    former_names: Mapping[str, str] = {}

    def draw(self, step: int, batch_size: int) -> Any:
        """What is random in a step, for the global batch; has ``rows(a, b)``, ``to(device)``. None
        if all comes from torch's own generator, which the trainer seeds.
        """
        return None

    def forward(self, batch: Batch, draw: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def complete(self) -> None:
        """What is left to do when it has learned, before it is saved."""


class Trainer:
    """Runs or resumes one training in ``folder``, home of ``checkpoint.pt`` and ``log.jsonl``."""

    def __init__(
        self,
        model: Trainee,
        samples: Samples,
        config: TrainConfig,
        folder: Path,
        validate: Callable[[int], None] | None = None,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
        from diffusers.training_utils import EMAModel

        self.config, self.samples, self.folder, self.validate = config, samples, folder, validate
        self.accelerator = Accelerator(
            mixed_precision=resolved(config.mixed_precision),
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        ranks = self.accelerator.num_processes
        if config.batch_size % (ranks * config.accumulate):
            raise FlexEditError(
                f"batch_size {config.batch_size} does not divide into {ranks} processes × "
                f"{config.accumulate} accumulated parts. Choose a multiple."
            )
        self.model = model
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = build_optimizer(
            config.optimizer,
            model,
            self.accelerator.device,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.trained.values(), decay=config.ema) if config.ema else None
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        self.step, self.seconds = 0, 0.0  # spent on training so far, by the log

    @property
    def kept(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.config)
        return {name: settings[name] for name in KEPT if settings[name] != "auto"}

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps

    def run(self, deadline: float | None = None) -> None:
        """Trains to the last step, or until ``time.monotonic()`` is past ``deadline``, and leaves a
        checkpoint.

        Raises FlexEditError for the checkpoint of another run, and for a loss or gradients that are
        no numbers; then the checkpoint in the folder stays as it was.
        """
        from tqdm import tqdm

        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        config, is_main = self.config, self.accelerator.is_main_process
        batches, earlier, began = self.batches(), self.seconds, time.monotonic()
        with tqdm(
            total=config.steps,
            initial=self.step,
            desc=self.folder.name,
            disable=not is_main,
            mininterval=5,
        ) as bar:
            while not self.finished and not self.is_late(deadline):
                losses = self.train_step(batches)
                self.step += 1
                bar.update()
                if self.step % config.log_every == 0 or self.finished:
                    row = {name: float(loss) for name, loss in losses.items()}
                    bar.set_postfix({name: f"{loss:.4f}" for name, loss in row.items()})
                    self.seconds = earlier + time.monotonic() - began
                    self.log({"step": self.step, "seconds": self.seconds, **row})
                if self.step % config.checkpoint_every == 0:
                    self.save()
                if self.validate and is_main and self.is_validated:
                    with self.averaged():
                        self.validate(self.step)
        self.save()

    @property
    def is_validated(self) -> bool:
        """Whether this step is one of those after which the model is validated."""
        every = self.config.validate_every
        return every > 0 and self.step % every == 0

    def batches(self) -> Iterator[Batch]:
        """This process's share of what is left to train on, a part of a step at a time."""
        parts = self.config.accumulate
        return loader(
            self.samples,
            self.config.batch_size // parts,
            self.step * parts,
            self.config.steps * parts,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            num_workers=self.config.num_workers,
        )

    def train_step(self, batches: Iterator[Batch]) -> dict[str, Any]:
        """One step of the optimizer; the mean of each loss over all rows and processes."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step)
        step_losses: dict[str, Any] = {}
        for part in range(config.accumulate):
            for name, mean in self.train_part(batches, part).items():
                step_losses[name] = step_losses.get(name, 0.0) + mean / config.accumulate
        if self.ema is not None:
            self.ema.step(self.trained.values())
        return step_losses

    def train_part(self, batches: Iterator[Batch], part: int) -> dict[str, Tensor]:
        """Gradients of one accumulated part, and the step that the last one ends with."""
        config, process = self.config, self.accelerator
        rows = config.batch_size // config.accumulate
        share = rows // process.num_processes
        micro = self.step * config.accumulate + part
        torch.manual_seed(config.seed * 1_000_003 + micro * 64 + process.process_index)
        first = part * rows + process.process_index * share
        draw = self.model.draw(self.step, config.batch_size)
        if draw is not None:
            draw = draw.rows(first, first + share).to(process.device)
        batch = next(batches).to(process.device)
        with process.accumulate(self.prepared), quick_attention(process.device):
            losses = self.prepared(batch, draw)
            means = torch.stack([loss.mean() for loss in losses.values()])
            reduced = dict(zip(losses, process.reduce(means.detach(), "mean"), strict=True))
            self.require_finite(reduced)
            process.backward(means.sum())
            if process.sync_gradients:
                norm = process.clip_grad_norm_(self.trained.values(), config.max_grad_norm)
                self.require_finite({"gradient norm": norm})
            self.optimizer.step()
            self.optimizer.zero_grad()
        return reduced

    def is_late(self, deadline: float | None) -> bool:
        """Whether it is in any process: all of them must leave a run at the same step."""
        if deadline is None:
            return False
        late = torch.tensor(float(time.monotonic() > deadline), device=self.accelerator.device)
        return bool(self.accelerator.reduce(late, "sum"))

    def require_finite(self, values: dict[str, Tensor]) -> None:
        """values: scalars, the same in every process, for all of them must leave a run together.

        Raises FlexEditError for one that is not a number, before it gets into weights and averages;
        not in fp16, where the gradient scaler leaves out such a step.
        """
        if self.accelerator.scaler is not None:
            return
        for name, value in values.items():
            if not value.isfinite():
                raise FlexEditError(
                    f"{self.folder.name}: {name} became {float(value)} in step {self.step + 1}. "
                    "As it is, the run would fail there again: lower its lr, and it goes on from "
                    "the last checkpoint."
                )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its EMA weights (its own, if EMA is off)."""
        if self.ema is None:
            yield
            return
        parameters = list(self.trained.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def log(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / LOG).open("a") as file:
                file.write(json.dumps(row) + "\n")

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "kept": self.kept,
            "trained": {name: tensor.detach() for name, tensor in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def save(self) -> None:
        """Atomic: a run that is killed while it writes still has its last checkpoint."""
        if self.accelerator.is_main_process:
            temporary = self.folder / (CHECKPOINT + ".tmp")
            torch.save(self.state(), temporary)
            os.replace(temporary, self.folder / CHECKPOINT)

    def resume(self) -> None:
        """Goes on from the folder's checkpoint, if there is one, and cuts the log back to it."""
        path = self.folder / CHECKPOINT
        if path.is_file():
            self.load_checkpoint(path)
        log = self.folder / LOG
        if log.is_file() and self.accelerator.is_main_process:
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in kept))
            self.seconds = json.loads(kept[-1])["seconds"] if kept else 0.0

    def load_checkpoint(self, path: Path) -> None:
        """Raises FlexEditError for the checkpoint of another model or configuration."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for former, name in self.model.former_names.items():
            trained = state["trained"].items()
            state["trained"] = {re.sub(f"^{re.escape(former)}", name, k): v for k, v in trained}
        for name, ours in self.kept.items():
            theirs = state.get("kept", {}).get(name, ours)  # older checkpoints do not say
            if theirs != ours:
                raise FlexEditError(
                    f"{path} belongs to a run with {name} {theirs}, not {ours}. "
                    f"Set it to {theirs}, or train into a new folder."
                )
        if structure(state) != structure(self.state()):
            raise FlexEditError(
                f"{path} belongs to another model or configuration. Train into a new folder."
            )
        with torch.no_grad():
            for name, tensor in state["trained"].items():
                self.trained[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"] | {"decay": self.config.ema})
            self.ema.to(self.accelerator.device)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def structure(state: Mapping[str, Any]) -> Any:
    """What two checkpoints of the same model and kind of training have in common."""
    return (
        {name: tensor.shape for name, tensor in state["trained"].items()},
        [len(group["params"]) for group in state["optimizer"]["param_groups"]],
        state["ema"] is not None,
        state["scaler"] is not None,
    )


def quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the backward of fused attention costs more than plain matrix products do."""
    if device.type != "cpu":
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def curve(folder: Path) -> list[dict[str, float]]:
    """The log of a run in ``folder``: a row per logged step."""
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def num_workers() -> int:
    """Loader workers of this process: its share of the cores that it and those beside it may use"""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(1, share), MAX_WORKERS)
