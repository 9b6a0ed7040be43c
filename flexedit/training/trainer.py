"""The one trainer: every module here is trained by it, from the VAE to the whole system.

What it trains is a module whose ``forward(batch, draw)`` returns losses by name, each a vector
over rows. Data and draws depend on (seed, step) alone, so a run that is killed and resumed walks
the same way as one that is not; so does one that several processes share, if all its dice are in
the draw (the VAE has some of its own) and no loss of a row depends on those beside it (as CLIP's).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import FlexEditError
from .batch import Batch, Samples, loader
from .precision import Precision, fast_dtype, resolved

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
Optimizer = Literal["adamw", "muon"]
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


class Trainee(Protocol):
    """What the trainer asks of a module besides being one."""

    def draw(self, step: int, batch_size: int) -> Any:
        """What is random in a step, for the global batch; has ``rows(a, b)``, ``to(device)``."""

    def __call__(self, batch: Batch, draw: Any) -> dict[str, Tensor]: ...


class Trainer:
    """Runs or resumes one training in ``folder``, home of ``checkpoint.pt`` and ``log.jsonl``."""

    def __init__(
        self,
        model: Any,  # an nn.Module and a Trainee
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
        optimizer = build_optimizer(model, config, self.accelerator.device)
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.trained.values(), decay=config.ema) if config.ema else None
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        self.step, self.seconds = 0, 0.0  # seconds of training before this run, by the log

    @property
    def kept(self) -> dict[str, Any]:
        values = {name: getattr(self.config, name) for name in KEPT}
        return {name: value for name, value in values.items() if value != "auto"}

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps

    def run(self, max_seconds: float | None = None) -> None:
        """Trains to the last step, or for about ``max_seconds``, and leaves a checkpoint.

        Raises FlexEditError for the checkpoint of another run, and for a loss or gradients that are
        no numbers; then the checkpoint in the folder stays as it was.
        """
        from tqdm import tqdm

        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        config, process = self.config, self.accelerator
        rows = config.batch_size // config.accumulate
        share = rows // process.num_processes
        start = process.process_index * share
        batches = loader(
            self.samples,
            rows,
            self.step * config.accumulate,
            config.steps * config.accumulate,
            rank=process.process_index,
            ranks=process.num_processes,
            num_workers=config.num_workers,
        )
        began = time.monotonic()
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            desc=self.folder.name,
            disable=not process.is_main_process,
            mininterval=5,
        )
        while not self.finished:
            if max_seconds is not None and self.any_process(time.monotonic() - began > max_seconds):
                break
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr_at(self.step)
            logged: dict[str, Any] = {}
            for part in range(config.accumulate):
                micro = self.step * config.accumulate + part
                torch.manual_seed(config.seed * 1_000_003 + micro * 64 + process.process_index)
                first = part * rows + start
                draw = self.model.draw(self.step, config.batch_size).rows(first, first + share)
                batch = next(batches).to(process.device)
                with process.accumulate(self.prepared), quick_attention(process.device):
                    losses = self.prepared(batch, draw.to(process.device))
                    means = torch.stack([loss.mean() for loss in losses.values()])
                    reduced = dict(zip(losses, process.reduce(means.detach(), "mean"), strict=True))
                    self.require_finite(reduced)
                    process.backward(means.sum())
                    if process.sync_gradients:
                        norm = process.clip_grad_norm_(self.trained.values(), config.max_grad_norm)
                        self.require_finite({"gradient norm": norm})
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                for name, mean in reduced.items():
                    logged[name] = logged.get(name, 0.0) + mean / config.accumulate
            if self.ema is not None:
                self.ema.step(self.trained.values())
            self.step += 1
            bar.update()
            if self.step % config.log_every == 0 or self.finished:
                logged = {name: float(value) for name, value in logged.items()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in logged.items()})
                seconds = self.seconds + time.monotonic() - began
                self.log({"step": self.step, "seconds": seconds, **logged})
            if self.step % config.checkpoint_every == 0:
                self.save()
            if (
                self.validate
                and config.validate_every
                and self.step % config.validate_every == 0
                and process.is_main_process
            ):
                with self.averaged():
                    self.validate(self.step)
        bar.close()
        self.save()

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

    def any_process(self, condition: bool) -> bool:
        """Whether it holds in any process: all of them must leave a run at the same step."""
        votes = torch.tensor(float(condition), device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes, "sum"))

    def averaged(self) -> Averaged:
        """``with trainer.averaged():`` the model has its EMA weights (its own, if EMA is off)."""
        return Averaged(self)

    def log(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / LOG).open("a") as file:
                file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Atomic: a run that is killed while it writes still has its last checkpoint."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "kept": self.kept,
            "trained": {name: tensor.detach() for name, tensor in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        temporary = self.folder / (CHECKPOINT + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.folder / CHECKPOINT)

    def resume(self) -> None:
        """Takes up the checkpoint in the folder, if there is one, and cuts the log back to it."""
        path = self.folder / CHECKPOINT
        if path.is_file():
            self.take_up(path)
        log = self.folder / LOG
        if log.is_file() and self.accelerator.is_main_process:
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in kept))
            self.seconds = json.loads(kept[-1])["seconds"] if kept else 0.0

    def take_up(self, path: Path) -> None:
        """Raises FlexEditError for the checkpoint of another model or configuration."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, wanted in self.kept.items():
            kept = state.get("kept", {}).get(name, wanted)  # older checkpoints do not say
            if kept != wanted:
                raise FlexEditError(
                    f"{path} belongs to a run with {name} {kept}, not {wanted}. "
                    f"Set it to {kept}, or train into a new folder."
                )
        shapes = {name: tensor.shape for name, tensor in state["trained"].items()}
        averages, groups = state["ema"] is not None, group_sizes(state["optimizer"])
        scales = state["scaler"] is not None
        if (shapes, averages, groups, scales) != (
            {name: tensor.shape for name, tensor in self.trained.items()},
            self.ema is not None,
            group_sizes(self.optimizer.state_dict()),
            self.accelerator.scaler is not None,
        ):
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


def optimizer_class(name: str) -> Any:
    """torch's AdamW, or timm's Muon, which knows convolutions.

    Raises FlexEditError for an unknown optimizer, and for Muon without timm.
    """
    if name not in get_args(Optimizer):
        raise FlexEditError(
            f"Unknown optimizer {name!r}; choose {' or '.join(get_args(Optimizer))}."
        )
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from timm.optim import Muon
    except ImportError as error:
        raise FlexEditError(
            "Training with Muon needs timm: pip install timm, or choose the optimizer adamw."
        ) from error
    return Muon


def build_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW for all that is trained; or Muon for the weights of linear and convolution layers (each
    a matrix, whose step is made orthogonal and as long as AdamW's) and NAdamW for the others.

    device: where it will train; Muon iterates in what is fast there.

    Raises what `optimizer_class` raises.
    """
    kind = optimizer_class(config.optimizer)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1]},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    shared: dict[str, Any] = {
        "lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay
    }  # fmt: skip
    if config.optimizer == "adamw":
        return kind(groups, fused=True, **shared)

    def weights(*kinds: type) -> set[int]:
        return {id(m.weight) for m in model.modules() if isinstance(m, kinds)}

    matrices = weights(nn.Linear, nn.Conv2d) - weights(nn.Embedding)  # some share theirs
    decayed = groups[0]["params"]
    return iterating_in(fast_dtype(device), kind)(
        [
            {"params": [p for p in decayed if id(p) in matrices]},
            {"params": [p for p in decayed if id(p) not in matrices], "use_fallback": True},
            groups[1] | {"use_fallback": True},
        ],
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",  # so that lr means what it does to AdamW
        **shared,
    )


def iterating_in(dtype: torch.dtype, muon: Any) -> Any:
    """timm's Muon with its iteration in another type than bfloat16, which it takes no argument for:
    while it steps, the function that iterates has one.
    """
    module: Any = sys.modules[muon.__module__]

    class Muon(muon):
        @torch.no_grad()
        def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
            iterate = module.zeropower_via_newtonschulz
            module.zeropower_via_newtonschulz = partial(iterate, dtype=dtype)
            try:
                return super().step(closure)
            finally:
                module.zeropower_via_newtonschulz = iterate

    return Muon


def group_sizes(optimizer: dict[str, Any]) -> list[int]:
    """How many parameters each group of an optimizer's state has: other optimizers have others"""
    return [len(group["params"]) for group in optimizer["param_groups"]]


def quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the backward of fused attention costs more than plain matrix products do."""
    if device.type != "cpu":
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


class Averaged:
    """Swaps the EMA weights in, and the trained ones back on leaving."""

    def __init__(self, trainer: Trainer) -> None:
        self.ema, self.parameters = trainer.ema, list(trainer.trained.values())

    def __enter__(self) -> None:
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        if self.ema is not None:
            self.ema.restore(self.parameters)
