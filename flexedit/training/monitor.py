"""How a training tells of itself: a log in its folder, a progress bar, and trackers.

A row of the log has the step, the seconds spent so far and the mean of each loss; of a mixture also
the losses of each data set, as ``<loss>/<data set>``. Trackers get that, and how fast it goes.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from ..errors import FlexEditError
from . import precision

LOG = "log.jsonl"
PROJECT = "flexedit"
Tracker = Literal["tensorboard", "wandb", "trackio"]
# Products that GPUs do a second in bf16, without sparsity, by their data sheets
PEAKS = {
    "B200": 2.25e15, "H200": 9.89e14, "H100": 9.89e14, "GH200": 9.89e14, "A100": 3.12e14,
    "L40S": 3.62e14, "L40": 1.81e14, "L4": 1.21e14, "A40": 1.5e14, "A6000": 1.55e14, "A10": 1.25e14,
    "4090": 1.65e14, "3090": 7.1e13,
}  # fmt: skip


class Monitor:
    """Of one run in ``folder``; processes: accelerate's Accelerator"""

    def __init__(
        self, processes: Any, folder: Path, trackers: Sequence[Tracker], settings: Mapping[str, Any]
    ) -> None:
        self.processes, self.folder = processes, folder
        self.trackers, self.settings = trackers, settings
        self.seconds = 0.0  # spent on training before it was last started, by the log
        self.flops: float | None = None  # of one step, in this process
        self.began = self.last = time.monotonic()
        self.last_step = 0

    def start(self, step: int) -> None:
        """Goes on after a step, to which the log is cut back."""
        log = self.folder / LOG
        if log.is_file() and self.processes.is_main_process:
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            log.write_text("".join(line + "\n" for line in kept))
            self.seconds = json.loads(kept[-1])["seconds"] if kept else 0.0
        self.began = self.last = time.monotonic()
        self.last_step = step
        if self.trackers:
            run = f"{self.folder.resolve().parent.name}-{self.folder.name}"
            named = {"name": run, "resume": "allow"}
            numbers = {k: v for k, v in self.settings.items() if isinstance(v, int | float)}
            settings = {k: str(v) for k, v in self.settings.items()} | numbers
            self.processes.init_trackers(PROJECT, settings, {"wandb": named, "trackio": named})

    def bar(self, steps: int, step: int) -> Any:
        """Its estimate is what steps took on average since the start, checkpoints and pictures too:
        the last ones alone would promise too much.
        """
        from tqdm import tqdm

        return tqdm(
            total=steps,
            initial=step,
            desc=self.folder.name,
            disable=not self.processes.is_main_process,
            mininterval=5,
            smoothing=0,
        )

    @contextmanager
    def counting(self, parts: int) -> Iterator[None]:
        """Inside, one of the ``parts`` of a step is computed; how much it is, trackers are told."""
        if not self.trackers or self.flops is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = parts * counter.get_total_flops()

    def tell(self, step: int, losses: Mapping[str, float], lr: float, rows: int) -> None:
        """rows: of one step, in all processes"""
        now = time.monotonic()
        seconds = self.seconds + now - self.began
        row = {"step": step, "seconds": seconds, **losses}
        if self.processes.is_main_process:
            with (self.folder / LOG).open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self.trackers:
            each = max(1e-9, (now - self.last) / max(1, step - self.last_step))
            speed = {"lr": lr, "samples_per_second": rows / each, "memory_gb": memory() / 2**30}
            peak = peak_flops(self.processes.device)
            if self.flops and peak:
                speed["mfu"] = self.flops / each / peak
            self.processes.log({**losses, **speed}, step=step)
        self.last, self.last_step = now, step

    def show(self, step: int, picture: np.ndarray | None) -> None:
        """picture (H, W, 3) uint8, of a validation"""
        if picture is None or not self.processes.is_main_process:
            return
        for tracker in self.processes.trackers:
            if tracker.name == "trackio":  # accelerate has no way to it
                image = importlib.import_module("trackio").Image(picture)
                tracker.log({"validation": image}, step=step)
            else:
                form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"validation": picture[None]}, step=step, **form)

    def close(self) -> None:
        for tracker in self.processes.trackers:
            tracker.finish()


def check_trackers(names: Sequence[Tracker]) -> None:
    """Raises FlexEditError for those that are unknown or not installed."""
    for name in names:
        if name not in get_args(Tracker):
            choices = ", ".join(get_args(Tracker))
            raise FlexEditError(f"Unknown tracker {name!r}; choose from {choices}.")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise FlexEditError(
                f"Reporting to {name} needs its package: pip install {name}, or choose another."
            ) from error


def memory() -> int:
    """The most that this process held so far, in bytes: of the GPU's memory, or of the machine's"""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_flops(device: torch.device) -> float | None:
    """What a device can do a second, None if nobody has told us: a GPU by its data sheet, a CPU by
    one product.
    """
    if device.type == "cpu":
        return 2 * precision.SIDE**3 / precision.seconds(torch.float32)
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def curve(folder: Path) -> list[dict[str, float]]:
    """The log of a run in ``folder``: a row per logged step."""
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
