"""What ComfyUI's versions of a diffusers part have in common: odd widths, late weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...flexedit.errors import FlexEditError


class Width(int):
    """A level's channels, posing as the whole multiple of the first level's ComfyUI asks for."""

    def __mul__(self, _: Any) -> int:
        return int(self)

    __rmul__ = __mul__


def set_norm_groups(module: nn.Module, groups: int, what: str) -> None:
    """ComfyUI builds every group norm with 32 groups; their weights serve any number."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm):
            if norm.num_channels % groups:
                raise FlexEditError(
                    f"{what}: norm_num_groups is {groups}, which does not divide its "
                    f"{norm.num_channels} channels."
                )
            norm.num_groups = groups


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's weights, also of those that ComfyUI has not made yet.

    With dynamic VRAM, as newer ComfyUIs have it on NVIDIA GPUs, linear layers wait for their file.
    """
    found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight is None:
            found[f"{name}.weight"] = (layer.out_features, layer.in_features)
            if getattr(layer, "comfy_need_lazy_init_bias", False):
                found[f"{name}.bias"] = (layer.out_features,)
    return found


def require(config: dict[str, Any], allowed: dict[str, tuple[Any, ...]], what: str) -> None:
    """Raises for a setting that ComfyUI's model cannot follow; an absent setting is the default."""
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            options = " or ".join(map(repr, values))
            raise FlexEditError(
                f"{what}: {name} is {config[name]!r}, but ComfyUI can run only {options}."
            )
