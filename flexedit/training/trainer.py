"""The one trainer: every module here is trained by it, from the VAE to the whole system.

What it trains is a module whose ``forward(batch, draw)`` returns losses by name, each a vector
over rows. Data and draws depend on (seed, step) alone, so a run that is killed and resumed walks
the same way as one that is not; so does one that several processes share, if all its dice are in
the draw (the VAE has some of its own) and no loss of a row depends on those beside it (as CLIP's).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import FlexEditError
from . import checkpoint
from .batch import Batch, Samples, loader
from .hub import Hub
from .monitor import Monitor, Tracker, check_trackers
from .optimizer import Optimizer, build_optimizer
from .precision import Precision, resolved
from .processes import (
    Strategy,
    accelerator,
    gathered,
    is_deepspeed,
    is_sharded,
    own_share,
    shared_as,
    whole,
)

AHEAD = 4  # batches that each worker of a loader has begun, at most
MAX_WORKERS = 16  # of one loader, however many cores there are
# What a run keeps to its end; its length, its learning rates and its reports may change, and a
# precision of "auto", so that it may go on on another kind of machine
KEPT = ("seed", "batch_size", "betas", "weight_decay", "mixed_precision", "optimizer")
# Settings that have to be 1 at least
COUNTED = (
    "steps", "batch_size", "accumulate", "checkpoint_every", "checkpoints_total_limit", "log_every",
)  # fmt: skip
COUNT = "rows/"  # of a data set, in the names of what a step reports

log = logging.getLogger(__name__)


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
    num_workers: int | None = None  # of a loader; None: as many as a GPU needs, none on a CPU
    strategy: Strategy = "ddp"  # how processes share the model
    gradient_checkpointing: bool = False  # less memory, a third more time
    checkpoints_total_limit: int = 1  # older ones are removed
    async_save: bool = False  # checkpoints are copied to the CPU's memory, and written meanwhile
    report_to: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        for name in COUNTED:
            if getattr(self, name) < 1:
                raise FlexEditError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        for name in ("warmup", "weight_decay", "validate_every", "num_workers"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise FlexEditError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        if not 0 < self.lr < math.inf:
            raise FlexEditError(f"lr is {self.lr}; choose a number above 0.")
        if not self.max_grad_norm > 0:  # infinite: gradients stay as long as they are
            raise FlexEditError(f"max_grad_norm is {self.max_grad_norm}; choose a number above 0.")
        if not 0 <= self.decay <= 1:
            raise FlexEditError(f"decay is {self.decay}; choose a share from 0 to 1.")
        for name, share in (("ema", self.ema), *(("betas", beta) for beta in self.betas)):
            if not 0 <= share < 1:
                raise FlexEditError(f"{name} is {share}; choose 0 or more, below 1.")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then constant, then linear to 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.lr * rise * fall


class Trainee(nn.Module):
    """What the trainer trains.

    former_names: what names of parameters began with in checkpoints of older versions, and do now ·
    in_layers: parts that every row passes, whose layers FSDP may gather one by one
    """

    former_names: Mapping[str, str] = {}
    in_layers: tuple[str, ...] = ()

    def draw(self, step: int, batch_size: int) -> Any:
        """What is random in a step, for the global batch; has ``rows(a, b)``, ``to(device)``. None
        if all comes from torch's own generator, which the trainer seeds.
        """
        return None

    def forward(self, batch: Batch, draw: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def felt(self) -> Tensor:
        """0, with a gradient of 0 to every trained weight that is here whole: processes that share
        weights must send the gradients of the same ones, also of a part that none of their rows
        has used. One that shares none does as they do: without a gradient Adam would leave out a
        weight, and with one of 0 its averages fall.
        """
        weights = [p for p in self.parameters() if p.requires_grad and not is_sharded(p)]
        return torch.stack([weight.flatten()[0].float() for weight in weights]).sum() * 0.0

    def complete(self) -> None:
        """What is left to do when it has learned, before it is saved."""

    def save_memory(self) -> None:
        """From now on the backward pass computes again what lies inside of layers."""


@dataclass(frozen=True)
class Report:
    """What became of a step, in all processes: of each name a value, then the gradients' norm, then
    how many of the processes want to leave.
    """

    step: int
    names: tuple[str, ...]
    values: Tensor


class Trainer:
    """Runs or resumes one training in ``folder``, home of its checkpoints and ``log.jsonl``."""

    def __init__(
        self,
        model: Trainee,
        samples: Samples,
        config: TrainConfig,
        folder: Path,
        validate: Callable[[int], Any] | None = None,
        hub: Hub | None = None,
    ) -> None:
        """validate: what is called with the step, and may return a picture (H, W, 3) uint8; in
        every process, if these share the weights · hub: what checkpoints are sent to

        Raises FlexEditError for settings that do not go together.
        """
        from diffusers.training_utils import EMAModel

        self.config, self.samples, self.folder, self.validate = config, samples, folder, validate
        check_trackers(config.report_to)
        if config.gradient_checkpointing:
            model.save_memory()
        self.accelerator = accelerator(
            config.strategy,
            model,
            config.batch_size // config.accumulate,
            config.max_grad_norm,
            mixed_precision=resolved(config.mixed_precision),
            gradient_accumulation_steps=config.accumulate,
            log_with=list(config.report_to) or None,
            project_dir=folder,
        )
        ranks = self.accelerator.num_processes
        if config.batch_size % (ranks * config.accumulate):
            raise FlexEditError(
                f"batch_size {config.batch_size} does not divide into {ranks} processes × "
                f"{config.accumulate} accumulated parts. Choose a multiple."
            )
        settings = dataclasses.asdict(config)
        self.monitor = Monitor(self.accelerator, folder, config.report_to, settings)
        if config.strategy != "ddp" and config.optimizer != "adamw":
            raise FlexEditError(
                f"The optimizer {config.optimizer} needs whole weights, which {config.strategy} "
                "cuts up. Choose adamw, or the strategy ddp."
            )
        optimizer = build_optimizer(
            config.optimizer,
            model,
            self.accelerator.device,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        # a GPU outruns one process that draws samples
        needed = num_workers() if self.accelerator.device.type == "cuda" else 0
        self.num_workers = needed if config.num_workers is None else config.num_workers
        self.writer = checkpoint.Writer(
            folder,
            self.accelerator,
            config.checkpoints_total_limit,
            config.async_save and not is_deepspeed(self.accelerator),
            hub,
        )
        self.model = model
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.ema = EMAModel(self.shares, decay=config.ema) if config.ema else None
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        self.step, self.saved = 0, -1  # that a checkpoint was written of
        self.signal = 0  # that asked this process to leave
        self.is_stopped = False  # in all processes

    @property
    def shares(self) -> list[Tensor]:
        """What this process has of the weights that are trained."""
        return [own_share(parameter) for parameter in self.trained.values()]

    @property
    def is_sharded(self) -> bool:
        return any(is_sharded(parameter) for parameter in self.trained.values())

    @property
    def kept(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.config)
        return {name: settings[name] for name in KEPT if settings[name] != "auto"}

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps

    def run(self, deadline: float | None = None) -> None:
        """Trains to the last step, until ``time.monotonic()`` is past ``deadline``, or until a
        SIGTERM or SIGINT, and leaves a checkpoint.

        Raises FlexEditError for the checkpoint of another run, and for a loss or gradients that are
        no numbers; then the checkpoint in the folder stays as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        batches, reports = self.batches(), deque[Report]()
        # A GPU works on the next step while this process reads what became of the last one.
        behind = 0 if self.accelerator.device.type == "cpu" else 1
        with (
            closing(self.writer),
            self.leaving_on_signals(),
            self.monitor.bar(self.config.steps, self.step) as bar,
        ):
            self.is_stopped = self.agreed(self.is_late(deadline))
            while not self.finished and not self.is_stopped:
                reports.append(self.train_step(batches, deadline))
                self.step += 1
                bar.update()
                while len(reports) > (0 if self.is_due else behind):
                    self.settle(reports.popleft(), bar)
                if self.step % self.config.checkpoint_every == 0:
                    self.save()
                if self.is_validated:
                    self.show()
            while reports:
                self.settle(reports.popleft(), bar)
            self.save()
            self.writer.finish()
        self.monitor.close()
        if self.signal and self.accelerator.is_main_process:
            name = signal.Signals(self.signal).name
            log.info("%s: left at step %d on %s. Run it again to go on.", *self.place, name)

    @property
    def place(self) -> tuple[str, int]:
        return self.folder.name, self.step

    @property
    def is_due(self) -> bool:
        """Whether something is to be done with the weights or the losses of this step."""
        every = (self.config.log_every, self.config.checkpoint_every)
        return self.finished or self.is_validated or any(self.step % n == 0 for n in every)

    @property
    def is_validated(self) -> bool:
        """Whether this step is one of those after which the model is validated."""
        every = self.config.validate_every
        return self.validate is not None and every > 0 and self.step % every == 0

    def batches(self) -> Iterator[Batch]:
        """This process's share of what is left to train on, a part of a step at a time."""
        config, parts = self.config, self.config.accumulate
        self.prepare(self.step)
        batches = loader(
            self.samples,
            config.batch_size // parts,
            self.step * parts,
            config.steps * parts,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            num_workers=self.num_workers,
        )
        return (
            batch
            for step in range(self.step, config.steps)
            for batch in self.of_step(step, batches)
        )

    def of_step(self, step: int, batches: Iterator[Batch]) -> Iterator[Batch]:
        self.prepare(step)
        return islice(batches, self.config.accumulate)

    def prepare(self, step: int) -> None:
        """Lets a cache compute what this step needs, and those that workers have begun."""
        if prepare := getattr(self.samples, "prepare", None):
            last = min(step + AHEAD * self.num_workers, self.config.steps - 1)
            prepare(step * self.config.batch_size, (last + 1) * self.config.batch_size - 1)

    def train_step(self, batches: Iterator[Batch], deadline: float | None = None) -> Report:
        """One step of the optimizer, and what became of it in all processes."""
        config, process = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step)
        parts = [self.train_part(batches, part) for part in range(config.accumulate)]
        if self.ema is not None:
            self.ema.step(self.shares)
        names, values = parts[0][0], torch.stack([values for _, values in parts]).mean(0)
        leaves = torch.tensor([float(self.is_late(deadline))], device=process.device)
        values = process.reduce(torch.cat([values, self.norm[None].to(values), leaves]), "mean")
        return Report(self.step + 1, names, values)

    def train_part(self, batches: Iterator[Batch], part: int) -> tuple[tuple[str, ...], Tensor]:
        """Gradients of one accumulated part, and the step that the last one ends with: means of the
        losses by their names, not yet over all processes.
        """
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
        with (
            process.accumulate(self.prepared),
            quick_attention(process.device),
            self.monitor.counting(config.accumulate),
        ):
            losses = self.prepared(batch, draw)
            process.backward(torch.stack([loss.mean() for loss in losses.values()]).sum())
            if process.sync_gradients:
                norm = process.clip_grad_norm_(self.trained.values(), config.max_grad_norm)
                self.norm = whole(torch.as_tensor(0.0 if norm is None else norm)).detach()
            self.optimizer.step()
            self.optimizer.zero_grad()
        detached = {name: loss.detach().float() for name, loss in losses.items()}
        return by_source(detached, batch, sources_of(self.samples))

    def settle(self, report: Report, bar: Any) -> None:
        """Reads what became of a step: whether it was one, and whether a process wants to leave.

        Raises FlexEditError for a loss or gradients that are no numbers, in all processes: before
        the weights get into a checkpoint. Not in fp16, where the gradient scaler leaves out such a
        step.
        """
        *values, norm, leaves = report.values.tolist()
        losses = dict(zip(report.names, values, strict=True))
        for name, value in {**losses, "gradient norm": norm}.items():
            if self.accelerator.scaler is None and not math.isfinite(value):
                raise FlexEditError(
                    f"{self.folder.name}: {name} became {value} in step {report.step}. "
                    "As it is, the run would fail there again: lower its lr, and it goes on from "
                    "the last checkpoint."
                )
        self.is_stopped = self.is_stopped or leaves > 0
        if report.step % self.config.log_every == 0 or report.step == self.config.steps:
            losses = means_of_sources(losses)
            bar.set_postfix({k: f"{loss:.4f}" for k, loss in losses.items() if "/" not in k})
            lr = self.config.lr_at(report.step - 1)
            self.monitor.tell(report.step, losses, lr, self.config.batch_size)

    def show(self) -> None:
        """Validates the averaged weights."""
        assert self.validate is not None
        if not (self.is_sharded or self.accelerator.is_main_process):
            return
        with self.averaged(), gathered(self.model):
            self.monitor.show(self.step, self.validate(self.step))

    # --- leaving ---

    def is_late(self, deadline: float | None) -> bool:
        """Whether this process has to leave."""
        return self.signal != 0 or (deadline is not None and time.monotonic() > deadline)

    def agreed(self, leaves: bool) -> bool:
        """Whether one of the processes has to: all of them must leave a run at the same step."""
        flag = torch.tensor(float(leaves), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum"))

    @contextmanager
    def leaving_on_signals(self) -> Iterator[None]:
        """Inside, the first SIGTERM or SIGINT ends the run after its step, with a checkpoint; the
        next one ends it at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only that one may ask for signals
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def leave(number: int, _: Any) -> None:
            self.signal = number
            restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, leave)
        try:
            yield
        finally:
            restore()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its EMA weights (its own, if EMA is off)."""
        if self.ema is None:
            yield
            return
        parameters = self.shares
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    # --- checkpoints ---

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has, by name; sharded tensors as this process's shares of them."""
        tensors = {f"trained.{name}": tensor.detach() for name, tensor in self.trained.items()}
        tensors |= self.averages()
        for name, state in self.moments().items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{name}.{key}"] = value
        return tensors

    def averages(self) -> dict[str, Tensor]:
        if self.ema is None:
            return {}
        pairs = zip(self.ema.shadow_params, self.trained.items(), strict=True)
        return {f"averages.{name}": shared_as(share, weight) for share, (name, weight) in pairs}

    def moments(self) -> dict[str, dict[str, Any]]:
        """What the optimizer remembers of each parameter; DeepSpeed keeps its own."""
        if is_deepspeed(self.accelerator):
            return {}
        names = {id(parameter): name for name, parameter in self.trained.items()}
        return {names[id(parameter)]: state for parameter, state in self.optimizer.state.items()}

    def facts(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        averages = self.ema.state_dict() if self.ema else None
        return {
            "step": self.step,
            "kept": self.kept,
            "averages": averages and {k: v for k, v in averages.items() if k != "shadow_params"},
            "scaler": scaler.state_dict() if scaler else None,
            "optimizer": {
                name: {k: v for k, v in state.items() if not isinstance(v, Tensor)}
                for name, state in self.moments().items()
            },
        }

    def save(self) -> None:
        if self.saved == self.step:
            return
        process, also = self.accelerator, None
        if is_deepspeed(process):
            also = partial(process.save_state, exclude_frozen_parameters=True)
        self.writer.write(self.step, self.tensors(), self.facts(), also)
        self.saved = self.step

    def resume(self) -> None:
        """Goes on from the folder's last checkpoint, if there is one, and cuts the log back to it.

        Raises FlexEditError for the checkpoint of another model or configuration.
        """
        path = checkpoint.latest(self.folder)
        if path is not None:
            former = path.name == checkpoint.FORMER
            (self.load_former if former else self.load)(path)
        self.monitor.start(self.step)

    def load(self, path: Path) -> None:
        facts, stored = checkpoint.facts_of(path), checkpoint.shapes(path)
        self.require_same_run(path, facts["kept"])
        own = {name: tensor.shape for name, tensor in self.tensors().items()}
        theirs = {name: shape for name, (shape, _) in stored.items()}
        optimizer = {name for name in {**own, **theirs} if name.startswith("optimizer.")}
        for names in (own, theirs):
            for name in optimizer & names.keys():
                del names[name]
        if own != theirs or (facts["scaler"] is None) != (self.accelerator.scaler is None):
            raise another(path)
        into = {f"trained.{name}": tensor.detach() for name, tensor in self.trained.items()}
        into |= self.averages()
        moments: dict[str, dict[str, Any]] = {k: dict(v) for k, v in facts["optimizer"].items()}
        for name in sorted(optimizer & stored.keys()):
            weight, _, key = name.removeprefix("optimizer.").rpartition(".")
            shape, dtype = stored[name]
            like = self.trained[weight]
            if shape == like.shape:
                into[name] = torch.empty_like(like, dtype=dtype, requires_grad=False)
            else:
                into[name] = torch.empty(shape, dtype=dtype)
            moments.setdefault(weight, {})[key] = into[name]
        checkpoint.read(path, into)
        if is_deepspeed(self.accelerator):
            self.accelerator.load_state(path / checkpoint.STATE, load_module_strict=False)
        else:
            self.load_moments(moments)
        if self.ema is not None:
            shares = {"shadow_params": self.ema.shadow_params, "decay": self.config.ema}
            self.ema.load_state_dict(facts["averages"] | shares)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.step = self.saved = facts["step"]

    def load_moments(self, moments: Mapping[str, Mapping[str, Any]]) -> None:
        """What the optimizer remembered of each parameter, by its name."""
        names = {id(parameter): name for name, parameter in self.trained.items()}
        order = [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        state = {index: moments[name] for index, name in enumerate(order) if name in moments}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})

    def load_former(self, path: Path) -> None:
        """The checkpoint of FlexEdit 0.1.0."""
        if self.is_sharded:
            raise FlexEditError(
                f"{path} is of an older version, which knew no {self.config.strategy}. Go on for a "
                "step with --strategy ddp."
            )
        state = checkpoint.read_former(path)
        for former, name in self.model.former_names.items():
            trained = state["trained"].items()
            state["trained"] = {re.sub(f"^{re.escape(former)}", name, k): v for k, v in trained}
        self.require_same_run(path, state.get("kept", {}))  # older ones do not say
        ours = {name: weight.shape for name, weight in self.trained.items()}
        groups = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        if (
            {name: weight.shape for name, weight in state["trained"].items()} != ours
            or groups != [len(group["params"]) for group in self.optimizer.param_groups]
            or (state["ema"] is None) != (self.ema is None)
            or (state["scaler"] is None) != (self.accelerator.scaler is None)
        ):
            raise another(path)
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

    def require_same_run(self, path: Path, kept: Mapping[str, Any]) -> None:
        """Raises FlexEditError unless a checkpoint's run had this one's settings."""
        for name, ours in self.kept.items():
            theirs = kept.get(name, ours)
            theirs = tuple(theirs) if isinstance(theirs, list) else theirs
            if theirs != ours:
                raise FlexEditError(
                    f"{path} belongs to a run with {name} {theirs}, not {ours}. "
                    f"Set it to {theirs}, or train into a new folder."
                )


def another(path: Path) -> FlexEditError:
    return FlexEditError(
        f"{path} belongs to another model or configuration. Train into a new folder."
    )


def sources_of(samples: Any) -> tuple[str, ...]:
    """The data sets of a mixture; none of what is one itself."""
    parts = getattr(samples, "parts", ())
    return tuple(dict.fromkeys(part.name for part in parts))


def by_source(
    losses: Mapping[str, Tensor], batch: Batch, sources: Sequence[str]
) -> tuple[tuple[str, ...], Tensor]:
    """The mean of each loss (B,), and of a mixture the sums and counts by its data sets: names and
    their values, which may be averaged over processes and parts.
    """
    names, values = list(losses), [torch.stack([loss.mean() for loss in losses.values()])]
    if sources:
        of_rows = torch.tensor([sources.index(sample.source) for sample in batch.samples])
        member = F.one_hot(of_rows, len(sources)).to(values[0])
        for name, loss in losses.items():
            names += [f"{name}/{source}" for source in sources]
            values.append(loss @ member)
        names += [f"{COUNT}{source}" for source in sources]
        values.append(member.sum(0))
    return tuple(names), torch.cat(values)


def means_of_sources(values: Mapping[str, float]) -> dict[str, float]:
    """Sums and counts by data set → means; none of a data set that had no row."""
    means = {}
    for name, value in values.items():
        _, _, source = name.partition("/")
        if name.startswith(COUNT):
            continue
        if not source:
            means[name] = value
        elif count := values[f"{COUNT}{source}"]:
            means[name] = value / count
    return means


def quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the backward of fused attention costs more than plain matrix products do."""
    if device.type != "cpu":
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def num_workers() -> int:
    """Loader workers of this process: its share of the cores that it and those beside it may use"""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(1, share), MAX_WORKERS)
