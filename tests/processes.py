"""Functions of tests in processes of their own, which start afresh rather than by a fork."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any


def started(function: Callable[..., Any], *arguments: Any, **named: Any) -> SpawnProcess:
    """The process in which that runs; it ends with the tests if nothing ends it before."""
    process = multiprocessing.get_context("spawn").Process(
        target=function, args=arguments, kwargs=named, daemon=True
    )
    process.start()
    return process


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> None:
    """Both run the function and train together. As accelerate's ``debug_launcher``, which forks."""
    from accelerate.utils import PrepareForLaunch, patch_environment
    from torch.multiprocessing import start_processes

    with (
        tempfile.TemporaryDirectory() as folder,
        patch_environment(
            world_size=2,
            master_addr="127.0.0.1",  # asked for, though they meet at a file
            master_port="29500",
            accelerate_mixed_precision="no",
            accelerate_debug_rdv_file=f"{folder}/meeting",
            accelerate_use_cpu="yes",
            gloo_socket_ifname="lo",
        ),
    ):
        launcher = PrepareForLaunch(function, debug=True)
        start_processes(launcher, args=arguments, nprocs=2, start_method="spawn")
