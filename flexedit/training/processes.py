"""How the processes of a training share its model.

``ddp``: each has all of it · ``fsdp``: FSDP2, each has its share of every weight, gathered layer by
layer · ``deepspeed``: ZeRO stage 2, each has its share of gradients and of the optimizer's averages
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor, nn

from ..errors import FlexEditError

Strategy = Literal["ddp", "fsdp", "deepspeed"]
DEEPSPEED = Path(__file__).with_name("deepspeed.yaml")


def accelerator(
    strategy: Strategy, model: nn.Module, rows: int, max_grad_norm: float, **settings: Any
) -> Any:
    """accelerate's Accelerator for this process; rows: of a part of a step, in all processes ·
    settings: its own

    Raises FlexEditError where that strategy needs what is not there.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType

    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    chosen = plugins(strategy, model)
    if deepspeed := chosen.get("deepspeed_plugin"):  # which asks for them before it sees data
        share = max(1, rows // int(os.environ.get("WORLD_SIZE", "1")))
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = share
        deepspeed.deepspeed_config["gradient_clipping"] = max_grad_norm
    process = Accelerator(kwargs_handlers=handlers, **chosen, **settings)
    if strategy == "fsdp" and process.num_processes == 1:
        raise FlexEditError(
            "The strategy fsdp shares a model among processes, and there is one. Start it by "
            "torchrun --nproc_per_node N, or choose ddp."
        )
    if strategy == "fsdp" and process.device.type == "cpu":
        shard_on_cpu(process, model)
    if process.distributed_type == DistributedType.FSDP and not process.is_fsdp2:
        raise FlexEditError("FSDP of version 1 is not supported. Choose --strategy fsdp instead.")
    if strategy == "deepspeed" and not is_deepspeed(process):
        raise FlexEditError("The strategy deepspeed needs GPUs. Choose ddp or fsdp.")
    return process


def plugins(strategy: Strategy, model: nn.Module) -> dict[str, Any]:
    """What accelerate is told of a strategy."""
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
    from accelerate.utils.imports import is_deepspeed_available
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if strategy == "ddp":
        return {}
    if strategy == "fsdp":
        return {
            "fsdp_plugin": FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=layer_classes(model, getattr(model, "in_layers", ())),
                cpu_ram_efficient_loading=False,  # each process has read what it trains
                # autocast does it, as for ddp; accelerate's would also round losses, and leave
                # weights in bf16 to what is computed outside of a step: the pictures
                mixed_precision_policy=MixedPrecisionPolicy(),
            )
        }
    if not is_deepspeed_available():
        raise FlexEditError(
            "The strategy deepspeed needs DeepSpeed: pip install deepspeed, or choose fsdp."
        )
    settings = yaml.safe_load(DEEPSPEED.read_text(encoding="utf-8"))
    return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=settings)}


def layer_classes(model: nn.Module, in_layers: Iterable[str]) -> list[str]:
    """The classes of layers that are gathered one by one, as transformers and diffusers name them,
    in those parts; the rest is gathered as a whole.

    All processes must gather alike, whatever rows they have: so these are layers of parts that
    every row passes, and of a kind that no other part has.
    """
    parts = [getattr(model, name, None) for name in in_layers]
    inside = {id(module) for part in parts if part is not None for module in part.modules()}
    named, found, elsewhere = set[str](), set[str](), set[str]()
    for module in model.modules():
        (found if id(module) in inside else elsewhere).add(type(module).__name__)
        if id(module) in inside:
            named.update(getattr(module, "_no_split_modules", None) or ())
    return sorted((named & found) - elsewhere)


def shard_on_cpu(process: Any, model: nn.Module) -> None:
    """accelerate shards on accelerators alone, and copies the whole model elsewhere without a word;
    torch shards on CPUs, too.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    process.state.fsdp_plugin = plugins("fsdp", model)["fsdp_plugin"]
    if process.mixed_precision != "no":  # as it does elsewhere
        process.state.fsdp_plugin.set_mixed_precision(process.mixed_precision)
    process.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def is_deepspeed(process: Any) -> bool:
    from accelerate.utils import DistributedType

    return process.distributed_type == DistributedType.DEEPSPEED


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # torch's DTensor


def whole(tensor: Any) -> Tensor:
    """All of a tensor; of a sharded one in every process, and all of them must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def own_share(tensor: Any) -> Tensor:
    """What this process has of a tensor, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def shared_as(share: Tensor, parameter: Any) -> Tensor:
    """A tensor of which this process has ``share``, cut up as a parameter is."""
    if not is_sharded(parameter):
        return share
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        share,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def wait_until(is_there: Callable[[], bool]) -> None:
    """Waits for what other processes make, however long that takes: NCCL's own barrier gives up
    after ten minutes.
    """
    while not is_there():
        time.sleep(0.2)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, a sharded model can be used as any other, by all processes at once."""
    sharded = [module for module in model.modules() if hasattr(module, "unshard")]
    for module in sharded:
        module.unshard()  # type: ignore[operator]
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()  # type: ignore[operator]


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `whole`, of all of them."""
    return {name: whole(tensor).detach() for name, tensor in tensors.items()}
