"""Checkpoints of a training: ``checkpoint-<step>/``, whole or not there.

torch.distributed.checkpoint writes and reads the tensors, a file for each process, and brings
them to any other number of processes. It does for `Accelerator.save_state` what it does here; that
one would write the frozen VLLM along, 14 GB a time, and no averages. Names of tensors:
``trained.<parameter>``, ``averages.<parameter>``, ``optimizer.<parameter>.<state>``.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ..errors import FlexEditError
from .hub import Hub

FORMER = "checkpoint.pt"  # FlexEdit 0.1.0's one file, which is read as before
UNFINISHED = "checkpoint.unfinished"
FACTS = "facts.json"  # what is no tensor; written last
STATE = "state"  # what accelerate's `save_state` writes, of DeepSpeed's engine
NAME = re.compile(r"checkpoint-(\d+)")
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError)


def checkpoints(folder: Path) -> list[Path]:
    """The whole ones of a run, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.partition("-")[2])


def latest(folder: Path) -> Path | None:
    """What a run in ``folder`` goes on from: 0.1.0's file only if none was written after it."""
    former = folder / FORMER
    return next(reversed(checkpoints(folder)), former if former.is_file() else None)


class Writer:
    """Writes the checkpoints of a run in ``folder``, one at a time, and removes older ones.

    processes: accelerate's Accelerator · keep: how many stay · in_background: tensors are copied to
    the CPU's memory, and written while the run goes on · hub: where each is sent when it is whole
    """

    def __init__(
        self,
        folder: Path,
        processes: Any,
        keep: int,
        in_background: bool = False,
        hub: Hub | None = None,
    ) -> None:
        self.folder, self.processes, self.keep, self.hub = folder, processes, keep, hub
        self.thread = ThreadPoolExecutor(1) if in_background else None
        self.group = None  # what writes in the background talks apart from the training
        self.pending: Future[str] | None = None
        if in_background and processes.num_processes > 1:
            self.group = distributed.new_group(backend="gloo", timeout=timedelta(days=1))

    def write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        also: Callable[[str], Any] | None = None,
    ) -> None:
        """All processes call it, and `finish` at the end. Nothing is removed before the new one is
        whole: a run that is killed while it writes still has its last checkpoint.

        also: writes more into a folder in it (DeepSpeed's own state). Raises FlexEditError in all
        of them if this one cannot be written, or the one before it could not.
        """
        from torch.distributed.checkpoint.state_dict_saver import async_save, save

        self.finish()
        unfinished = self.folder / UNFINISHED
        if self.processes.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.processes.wait_for_everyone()
        complete = partial(self.complete, step, json.dumps(facts))
        if self.thread is not None:
            with quietly():
                saved: Any = async_save(
                    dict(tensors), checkpoint_id=unfinished, process_group=self.group
                )
            self.pending = self.thread.submit(complete, saved.result)
            return

        def save_all() -> None:
            with quietly():
                save(dict(tensors), checkpoint_id=unfinished)
                if also is not None:
                    also(str(unfinished / STATE))
            self.processes.wait_for_everyone()

        self.settle(complete(save_all))

    def complete(self, step: int, facts: str, saved: Callable[[], Any]) -> str:
        """Waits until all is written, and makes it the last checkpoint → what went wrong, if
        anything did.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        unfinished, path = self.folder / UNFINISHED, self.folder / f"checkpoint-{step}"
        try:
            saved()
            if self.processes.is_main_process:
                (unfinished / FACTS).write_text(facts, encoding="utf-8")
                unfinished.rename(path)
        except (*UNREADABLE, CheckpointException) as error:  # save's is raised in all processes
            if self.processes.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
            return f"{path} cannot be written ({reason(error)})"
        if self.processes.is_main_process:
            prune(self.folder, self.keep, None if self.hub is None else self.hub.reads)
            if self.hub is not None:
                self.hub.send(path)
        return ""

    def finish(self) -> None:
        """All processes call it. Waits for what is being written; raises what `write` does."""
        if self.pending is None:
            return
        problem, self.pending = self.pending.result(), None
        self.settle(problem)

    def close(self) -> None:
        """Waits, in this process alone, for what is being written."""
        if self.pending is not None:
            wait([self.pending])

    def settle(self, problem: str) -> None:
        """Raises FlexEditError in all processes if there is a problem in the main one."""
        from accelerate.utils import broadcast_object_list

        (problem,) = broadcast_object_list([problem])
        if problem:
            last = latest(self.folder)
            raise FlexEditError(
                f"{problem}. Make room, then run it again: it goes on from "
                f"{'its start' if last is None else last.name}."
            )


def prune(folder: Path, keep: int, spared: Path | None = None) -> None:
    """Removes all but the ``keep`` latest checkpoints and the one to spare, and what an older
    version left.
    """
    (folder / FORMER).unlink(missing_ok=True)
    for path in checkpoints(folder)[:-keep]:
        if path != spared:
            shutil.rmtree(path)


def facts_of(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def shapes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Of all tensors in it, by name."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    try:
        stored: Any = FileSystemReader(path).read_metadata().state_dict_metadata
        return {name: (it.size, it.properties.dtype) for name, it in stored.items()}
    except (*UNREADABLE, AttributeError) as error:
        raise unreadable(path, error) from error


def read(path: Path, into: Mapping[str, Tensor]) -> None:
    """Fills tensors, whole ones or this process's shards of them, by their names."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with quietly():
            load(dict(into), checkpoint_id=path)
    except (*UNREADABLE, CheckpointException) as error:
        raise unreadable(path, error) from error


def read_former(path: Path) -> dict[str, Any]:
    """FlexEdit 0.1.0's: step, kept, trained, optimizer, ema, scaler"""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if not isinstance(state, dict):
        raise unreadable(path, ValueError("it holds something else"))
    return state


def unreadable(path: Path, error: BaseException) -> FlexEditError:
    others = [it for it in checkpoints(path.parent) if it != path]
    goes_on = f"the run goes on from {others[-1].name}" if others else "this stage starts anew"
    return FlexEditError(
        f"The checkpoint {path} cannot be read ({reason(error)}). Delete it, and {goes_on}."
    )


def reason(error: BaseException) -> str:
    """The first line of what went wrong, in the process where it did."""
    if failures := getattr(error, "failures", None):  # by process
        error = next(iter(failures.values()))[0]
    cause = error
    while cause.__context__ is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    text = str(error).strip().partition("\n")[0].rstrip(".")
    if "enforce fail" in text:  # torch's own words for a file that ends too early
        return "a file may grow no further; is the disk full?"
    return text or type(error).__name__


@contextmanager
def quietly() -> Iterator[None]:
    """Without torch's warning that a single process saves alone (which a thread may raise later),
    and without the traceback that it logs of what is raised, too.
    """
    warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
