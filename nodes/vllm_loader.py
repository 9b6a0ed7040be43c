"""FlexEdit VLLM Loader: a stock vision language model, for who has no FlexEdit weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from comfy import model_management
from comfy_api.latest import io

from ..flexedit.errors import FlexEditError
from ..flexedit.model_folder import load_stock_vllm
from .runtime import folders
from .runtime.options import checked, one_of
from .runtime.parts import PRECISIONS, ManagedPart
from .runtime.types import CATEGORY, Vllm, schema


class VLLMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditVLLMLoader",
            display_name="FlexEdit VLLM Loader",
            category=CATEGORY,
            description="Opens a stock vision language model (LLaVA, Qwen2.5-VL, SmolVLM …). It "
            "names what a scribble covers and says the instruction anew, for any other graph. It "
            "has no edit tokens: FlexEdit Q-Former Embed needs the VLLM of FlexEdit Loader.",
            search_aliases=["LLaVA", "Qwen VL", "SmolVLM", "load VLM"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(folders.vllm_folders()) or [folders.NONE_YET],
                    tooltip="A folder below models/LLM with config.json, processor and "
                    ".safetensors weights, as transformers saves them.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="What the model computes in. auto takes what suits your device and "
                    "the weights; fp32 is exact and slow.",
                ),
            ],
            outputs=[Vllm.Output(display_name="vllm")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, precision: str | None = None) -> bool | str:
        try:
            if model is not None:  # None: it comes through a wire
                folders.open_vllm(model)
        except FlexEditError as error:
            return str(error)
        return one_of("precision", precision, PRECISIONS)

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, precision: str | None = None) -> Any:
        return None if model is None else folders.file_times(folders.open_vllm(model))

    @classmethod
    @checked
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        folder = folders.open_vllm(model)
        load = partial(load_stock_vllm, folder)
        return io.NodeOutput(ManagedPart("VLLM", load, suited(precision, folder)))


def suited(precision: str, folder: Path) -> str:
    """auto leaves bfloat16 weights as they are where the device can: fp16 overflows in some."""
    device = model_management.text_encoder_device()
    keeps = folders.stored_in_bf16(folder) and model_management.should_use_bf16(device)
    return "bf16" if precision == "auto" and keeps else precision
