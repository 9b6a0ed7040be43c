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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError

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


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    processes: Any,
    also: Callable[[str], Any] | None = None,
) -> Path:
    """All processes call it. Before it returns nothing is removed: a run that is killed while it
    writes still has its last checkpoint.

    processes: accelerate's state of them · also: writes more into a folder in it (DeepSpeed's own
    state). Raises FlexEditError in all of them if one cannot write.
    """
    from accelerate.utils import broadcast_object_list
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    unfinished, path = folder / UNFINISHED, folder / f"checkpoint-{step}"
    if processes.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    processes.wait_for_everyone()
    problem = ""
    try:
        with quietly():
            save(dict(tensors), checkpoint_id=unfinished)
            if also is not None:
                also(str(unfinished / STATE))
        processes.wait_for_everyone()
        if processes.is_main_process:
            (unfinished / FACTS).write_text(json.dumps(facts), encoding="utf-8")
            unfinished.rename(path)
    except (*UNREADABLE, CheckpointException) as error:  # save's is raised in all processes
        problem = reason(error)
        if processes.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
    (problem,) = broadcast_object_list([problem])
    if problem:
        last = latest(folder)
        raise FlexEditError(
            f"{path} cannot be written ({problem}). Make room, then run it again: it goes on "
            f"from {'its start' if last is None else last.name}."
        )
    return path


def prune(folder: Path, keep: int) -> None:
    """Removes all but the ``keep`` latest checkpoints, and what an older version left."""
    (folder / FORMER).unlink(missing_ok=True)
    for path in checkpoints(folder)[:-keep]:
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
    """Without torch's warning that a single process saves alone, and without the traceback that it
    logs of what is raised, too.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
            yield
    finally:
        logging.disable(before)
