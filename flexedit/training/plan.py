"""A dry run: what a training will be, before anything is downloaded, read or computed.

Everything is built on the meta device, where tensors have a shape and no numbers.
B rows, N edit tokens, Q edit embeddings, D a width, C × h × w a latent
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..errors import FlexEditError
from ..model_folder import ModelFolder
from ..model_folder.memory import empty_parts
from ..models.config import SystemConfig
from ..models.diffusion.conditioning import Conditioning
from ..models.parts import Reading
from .recipe import StageRecipe

BACKBONES = Path(__file__).with_name("backbones.yaml")
PROJECTIONS = ("q_proj", "v_proj")  # where LoRA sits
FLOAT, HALF = 4, 2  # bytes


def config_folder(source: str, folder: Path) -> Path:
    """The folder of that name, or one with the configs of a published part, made in ``folder``.

    Raises FlexEditError for neither.
    """
    if Path(source).is_dir():
        return Path(source)
    known = yaml.safe_load(BACKBONES.read_text(encoding="utf-8"))
    if source not in known:
        raise FlexEditError(
            f"{source} is neither a folder nor one of {', '.join(known)}. Download it, and name "
            "its folder."
        )
    made = folder / source.replace("/", "--")
    for name, config in known[source].items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(json.dumps(config), encoding="utf-8")
    return made


@dataclass(frozen=True)
class PartSize:
    """Of one part: how many parameters it has, and of how many bytes each while they are frozen"""

    parameters: int
    trained: int
    frozen_bytes: int

    @property
    def frozen(self) -> int:
        return (self.parameters - self.trained) * self.frozen_bytes


class Plan:
    """What one stage of a recipe needs; parts: the model's, without weights"""

    def __init__(
        self, config: SystemConfig, parts: Mapping[str, nn.Module], stage: StageRecipe
    ) -> None:
        self.config, self.parts, self.stage = config, parts, stage
        trained = stage.losses.parts if stage.losses else ()
        self.sizes = {name: self.size(name, part, name in trained) for name, part in parts.items()}

    def size(self, name: str, part: nn.Module, is_trained: bool) -> PartSize:
        count = sum(parameter.numel() for parameter in part.parameters())
        if name != "vllm":
            others = [getattr(part, kind, None) for kind in getattr(part, "frozen", ())]
            own = {id(p) for it in others if it is not None for p in it.parameters()}
            learns = sum(p.numel() for p in part.parameters() if id(p) not in own)
            return PartSize(count, learns if is_trained else 0, FLOAT)
        added = self.added(part)
        frozen = HALF if self.stage.train.mixed_precision in ("bf16", "auto") else FLOAT
        return PartSize(count + added, added if is_trained else 0, frozen)

    def added(self, vllm: Any) -> int:
        """LoRA's matrices and the edit tokens' rows."""
        config = self.config.vllm
        assert config is not None
        inputs, outputs = vllm.get_input_embeddings(), vllm.get_output_embeddings()
        is_tied = inputs.weight is outputs.weight or vllm.config.tie_word_embeddings
        rows = config.num_edit_tokens * inputs.weight.shape[1] * (1 if is_tied else 2)
        if config.lora is None:
            return rows
        language = dict(vllm.named_modules())
        seen = [
            linear
            for name, linear in language.items()
            if name.endswith(PROJECTIONS) and "vision" not in name and "visual" not in name
        ]
        return rows + sum(config.lora.rank * (it.in_features + it.out_features) for it in seen)

    @property
    def trained(self) -> int:
        return sum(size.trained for size in self.sizes.values())

    @property
    def state_bytes(self) -> int:
        """Of what the optimizer remembers of one trained parameter."""
        return {"adamw": 2 * FLOAT, "muon": 2 * FLOAT, "adamw8bit": 2}[self.stage.train.optimizer]

    @property
    def average_bytes(self) -> int:
        return FLOAT if self.stage.train.ema else 0

    def memory(self, strategy: str, gpus: int) -> int:
        """Bytes on each GPU without what layers keep for the backward pass, which grows with the
        rows of a part.
        """
        frozen = sum(size.frozen for size in self.sizes.values())
        weights = frozen + self.trained * (FLOAT + self.average_bytes)
        learning = self.trained * (FLOAT + self.state_bytes)  # gradients, and the optimizer's
        if strategy == "fsdp":
            return (weights + learning) // gpus + self.largest_layer
        return weights + (learning // gpus if strategy == "deepspeed" else learning)

    @property
    def largest_layer(self) -> int:
        """What FSDP gathers at once, the layer's weights."""
        layers = [
            sum(p.numel() for p in layer.parameters()) * FLOAT
            for part in self.parts.values()
            for blocks in part.modules()
            if isinstance(blocks, nn.ModuleList)
            for layer in blocks
        ]
        return max(layers, default=0)

    @property
    def checkpoint_bytes(self) -> int:
        return self.trained * (FLOAT + self.state_bytes + self.average_bytes)

    @property
    def kept_bytes(self) -> int:
        """Of checkpoints, while the next one is written."""
        return self.checkpoint_bytes * (self.stage.train.checkpoints_total_limit + 1)

    def shapes(self, rows: int = 1) -> dict[str, tuple[int, ...]]:
        """What passes from part to part, by a walk on the meta device."""
        with torch.device("meta"), torch.no_grad():
            return {name: tuple(it.shape) for name, it in self.walk(rows).items()}

    def walk(self, rows: int) -> dict[str, Tensor]:
        config, found = self.config, {}
        side, bridge = config.sampling.size // self.vae_ratio, config.bridge
        if config.vllm is not None:
            hidden = torch.empty(rows, config.vllm.num_edit_tokens, bridge.hidden_width)
            found["hidden_states"] = hidden
            words = ("",) * rows
            found["e"] = self.parts["bridge"](Reading(words, words, words, hidden)).e
        else:
            found["e"] = torch.empty(rows, bridge.num_embeddings, bridge.width)
        latent = torch.empty(rows, config.latent_channels, side, side)
        pooled = sizes = None
        if config.pools:
            pooled, sizes = torch.empty(rows, config.pooled_width), torch.empty(rows, 6)
        conditioning = Conditioning(
            found["e"], None, torch.empty(rows), latent, None, pooled, sizes
        )
        found["latent"] = latent
        timesteps = torch.empty(rows, dtype=torch.long)
        found["prediction"] = self.parts["unet"](latent, timesteps, conditioning)
        return found

    @property
    def vae_ratio(self) -> int:
        vae: Any = self.parts["vae"]
        return 2 ** (len(vae.config.block_out_channels) - 1)


def plans(model: ModelFolder, stages: Mapping[str, StageRecipe]) -> dict[str, Plan]:
    """Of all stages; of the model, configs alone are read."""
    parts = empty_parts(model)
    return {name: Plan(model.config, parts, stage) for name, stage in stages.items()}


def report(
    plans: Mapping[str, Plan], gpus: int, num_rows: Mapping[str, int], rate: float | None
) -> list[str]:
    """What a dry run says; num_rows: of each stage's data, where it is at hand · rate: samples a
    second, of all GPUs together
    """
    lines: list[str] = []
    for name, plan in plans.items():
        train = plan.stage.train
        lines += [f"stage {name}: {train.steps:,} steps of {train.batch_size:,} rows"]
        if name in num_rows:
            epoch = max(1, num_rows[name] // train.batch_size)
            lines += [f"  {num_rows[name]:,} rows of data: {epoch:,} steps per epoch"]
        shapes = plan.shapes().items()
        lines += ["  shapes: " + " · ".join(f"{key} {_shape(shape)}" for key, shape in shapes)]
        for part, size in plan.sizes.items():
            lines += [
                f"  {part:<12} {size.parameters / 1e6:>9,.1f} M parameters, "
                f"{size.trained / 1e6:,.1f} M trained"
            ]
        each = [
            f"{strategy} {plan.memory(strategy, gpus) / 1e9:.1f} GB"
            for strategy in ("ddp", "fsdp", "deepspeed")
        ]
        lines += [
            f"  memory of each of {gpus} GPUs, without activations: {', '.join(each)}",
            f"  a checkpoint: {plan.checkpoint_bytes / 1e9:.1f} GB, "
            f"all that are kept at once: {plan.kept_bytes / 1e9:.1f} GB",
        ]
        if rate:
            lines += [f"  {train.steps * train.batch_size / rate / 3600:,.1f} hours"]
    disk = sum(
        p.checkpoint_bytes * (p.stage.train.checkpoints_total_limit + 1) for p in plans.values()
    )
    largest = list(plans.values())[-1]
    whole = sum(size.frozen + size.trained * HALF for size in largest.sizes.values())
    lines += [f"disk: {(disk + 2 * whole) / 1e9:.0f} GB, with the model before and after"]
    if not rate:
        lines += ["hours: give --rate, the samples a second that a short run has shown"]
    return lines


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def measured_rate(
    folder: Path, stages: Sequence[str], recipe: Mapping[str, StageRecipe]
) -> float | None:
    """Samples a second of the last run in a folder, None if there was none."""
    from .monitor import LOG, curve

    for name in reversed(stages):
        rows = curve(folder / name) if (folder / name / LOG).is_file() else []
        if rows and rows[-1]["seconds"] > 0:
            return rows[-1]["step"] * recipe[name].train.batch_size / rows[-1]["seconds"]
    return None


def num_gpus() -> int:
    """Of this run: as many as torchrun has started processes, or as there are."""
    return int(os.environ.get("WORLD_SIZE", max(1, torch.cuda.device_count())))
