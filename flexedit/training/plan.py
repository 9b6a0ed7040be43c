"""A dry run: what a training will be, before anything is downloaded, read or computed.

Everything is built on the meta device, where tensors have a shape and no numbers.
B rows, N edit tokens, Q edit embeddings, D a width, C × h × w a latent
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..errors import FlexEditError
from ..model_folder import ModelFolder
from ..model_folder.folder import text_of
from ..model_folder.memory import empty_parts, empty_text
from ..models.config import SystemConfig
from ..models.diffusion.conditioning import Conditioning
from ..models.parts import Reading
from .model import TrainingModel
from .processes import layer_classes
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
        self.learns: set[int] = set()  # ids of the parameters, or of modules beside which they are
        self.added = self.added_to(parts["vllm"]) if "vllm" in parts else {}
        self.sizes = {name: self.size(name, part, name in trained) for name, part in parts.items()}

    def size(self, name: str, part: nn.Module, is_trained: bool) -> PartSize:
        count = sum(parameter.numel() for parameter in part.parameters())
        if name == "vllm":
            added = sum(self.added.values())
            self.learns.update(self.added if is_trained else ())
            return PartSize(count + added, added if is_trained else 0, self.vllm_bytes)
        others = [getattr(part, kind, None) for kind in getattr(part, "frozen", ())]
        frozen = {id(p) for it in others if it is not None for p in it.parameters()}
        own = [p for p in part.parameters() if is_trained and id(p) not in frozen]
        self.learns.update(map(id, own))
        return PartSize(count, sum(p.numel() for p in own), FLOAT)

    @property
    def vllm_bytes(self) -> int:
        return HALF if self.stage.train.mixed_precision in ("bf16", "auto") else FLOAT

    def added_to(self, vllm: Any) -> dict[int, int]:
        """LoRA's matrices and the edit tokens' rows: parameters, by the id of the module beside
        which they are.
        """
        config = self.config.vllm
        assert config is not None
        inputs, outputs = vllm.get_input_embeddings(), vllm.get_output_embeddings()
        is_tied = inputs.weight is outputs.weight or vllm.config.tie_word_embeddings
        rows = config.num_edit_tokens * inputs.weight.shape[1]
        added = {id(it): rows for it in ((inputs,) if is_tied else (inputs, outputs))}
        if config.lora is None:
            return added
        language = dict(vllm.named_modules())
        seen = [
            linear
            for name, linear in language.items()
            if name.endswith(PROJECTIONS) and "vision" not in name and "visual" not in name
        ]
        rank = config.lora.rank
        return added | {id(it): rank * (it.in_features + it.out_features) for it in seen}

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
            return (weights + learning) // gpus + self.gathered
        return weights + (learning // gpus if strategy == "deepspeed" else learning)

    @property
    def gathered(self) -> int:
        """Bytes that FSDP has whole at once: weights that are in no layer, and those of the largest
        layer, with the gradients of those that train.
        """
        layers = layer_classes(nn.ModuleDict(self.parts), TrainingModel.in_layers)
        counted: set[int] = set()

        def whole(what: Any, count: int, frozen_bytes: int) -> int:
            return count * (2 * FLOAT if id(what) in self.learns else frozen_bytes)

        def walk(module: nn.Module, frozen_bytes: int) -> tuple[int, int]:
            """What is gathered with a module, and the most that is while one inside it runs"""
            here, inside = whole(module, self.added.get(id(module), 0), FLOAT), 0
            for weight in module.parameters(recurse=False):
                if id(weight) not in counted:  # some are shared
                    counted.add(id(weight))
                    here += whole(weight, weight.numel(), frozen_bytes)
            for child in module.children():
                own, most = walk(child, frozen_bytes)
                is_layer = type(child).__name__ in layers
                here += 0 if is_layer else own
                inside = max(inside, most + own if is_layer else most)
            return here, inside

        found = [
            walk(part, self.vllm_bytes if name == "vllm" else FLOAT)
            for name, part in self.parts.items()
        ]
        return sum(own for own, _ in found) + max(most for _, most in found)

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
    """Of all stages; of the model, configs alone are read.

    Raises FlexEditError for settings that make no sense for its system.
    """
    for stage in stages.values():
        stage.check(model.config)
    parts = empty_parts(model)
    if getattr(parts["bridge"], "text", None) is None:  # what `align` aims at, and e∅
        with torch.device("meta"):
            parts["text"] = text_of(model, partial(empty_text, model))
    return {name: Plan(model.config, parts, stage) for name, stage in stages.items()}


def report(
    plans: Mapping[str, Plan], gpus: int, num_rows: Mapping[str, int], rates: Mapping[str, float]
) -> list[str]:
    """What a dry run says; num_rows: of each stage's data, where it is at hand · rates: samples a
    second of each stage, of all GPUs together, where they are known
    """
    lines: list[str] = []
    hours = {
        name: plan.stage.train.steps * plan.stage.train.batch_size / rates[name] / 3600
        for name, plan in plans.items()
        if name in rates
    }
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
        if name in hours:
            lines += [f"  {hours[name]:,.1f} hours, at {rates[name]:,.1f} samples a second"]
    disk = sum(plan.kept_bytes for plan in plans.values())
    largest = list(plans.values())[-1]
    whole = sum(size.frozen + size.trained * HALF for size in largest.sizes.values())
    lines += [f"disk: {(disk + 2 * whole) / 1e9:.0f} GB, with the model before and after"]
    if len(hours) == len(plans):
        lines += [f"hours: {sum(hours.values()):,.1f} in all"]
    else:
        lines += ["hours: give --rate, the samples a second that a short run has shown"]
    return lines


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def measured_rates(folder: Path, recipe: Mapping[str, StageRecipe]) -> dict[str, float]:
    """Samples a second of each stage that was run in a folder, with batches as large as now."""
    from .monitor import LOG, curve

    rates = {}
    for name, stage in recipe.items():
        rows = curve(folder / name) if (folder / name / LOG).is_file() else []
        if rows and rows[-1]["seconds"] > 0:
            rates[name] = rows[-1]["step"] * stage.train.batch_size / rows[-1]["seconds"]
    return rates


def num_gpus() -> int:
    """Of this run: as many as torchrun has started processes, or as there are."""
    return int(os.environ.get("WORLD_SIZE", max(1, torch.cuda.device_count())))
