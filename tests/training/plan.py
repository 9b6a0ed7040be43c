"""The plan of the mini with hardly any steps, for tests of whole trainings."""

from __future__ import annotations

import dataclasses

from flexedit.training.stages import MINI_PLAN, Plan
from tests.tiny import TINY


def tiny_plan(steps: int = 2) -> Plan:
    """The plan of the mini, with its recipes and precision, but hardly any steps."""
    stages = {
        name: dataclasses.replace(
            stage,
            train=dataclasses.replace(
                stage.train, steps=steps, batch_size=2, warmup=1, log_every=1, lr=1e-2
            ),
        )
        for name, stage in MINI_PLAN.stages.items()
    }
    return Plan(TINY, stages, num_texts=50)


def forget_precision() -> None:
    """accelerate keeps the precision of a process's first Accelerator."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
