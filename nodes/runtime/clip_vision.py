"""A folder's CLIP vision tower as ComfyUI's CLIP_VISION, and all of its tokens in text space."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import torch
from comfy import model_management
from torch import Tensor, nn

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import ModelFolder, check_shapes
from ...flexedit.model_folder.weights import read_weights
from ...flexedit.models.clip import project_tokens
from ...flexedit.models.preprocess import Preprocess
from ...flexedit.packages import needed
from .lazy import Lazy
from .parts import precision_dtype
from .weights import require, shapes

PARTS = ("vision_model.", "visual_projection.")
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
EXTRA = "vision_model.embeddings.position_ids"  # a constant that old files carry


class FolderClipVision(Lazy, comfy.clip_vision.ClipVisionModel):
    """ComfyUI's ClipVisionModel, read from its folder when it is first used."""

    flexedit_preprocess: Preprocess


def load_clip_vision(folder: ModelFolder, precision: str) -> FolderClipVision:
    @needed("transformers")
    def build(clip: FolderClipVision) -> None:
        from transformers import CLIPVisionConfig

        part = folder.part("clip")
        where = f"{folder.path.name}: clip"
        config = CLIPVisionConfig.from_pretrained(part, local_files_only=True)
        settings = config.to_dict() | {"model_type": "clip_vision_model"}
        activations = {"hidden_act": ACTIVATIONS, "layer_norm_eps": (1e-5,)}
        require(settings, activations, where)
        with tempfile.TemporaryDirectory() as scratch:  # ComfyUI reads it from a file
            file = Path(scratch) / "config.json"
            file.write_text(json.dumps(settings, default=str), encoding="utf-8")
            comfy.clip_vision.ClipVisionModel.__init__(clip, str(file))
        clip.dtype = precision_dtype(precision, clip.load_device)
        clip.model.to(clip.dtype)
        tensors = {k: v for k, v in read_weights(part, PARTS).items() if k != EXTRA}
        check_shapes(shapes(clip.model), tensors, where)
        clip.load_sd({name: tensor.to(clip.dtype) for name, tensor in tensors.items()})
        if hasattr(model_management, "archive_model_dtypes"):  # what dynamic VRAM computes in
            model_management.archive_model_dtypes(clip.model)
        clip.flexedit_preprocess = Preprocess.from_folder(part, config.image_size)

    return FolderClipVision(build)


def tokens(clip_vision: comfy.clip_vision.ClipVisionModel, pictures: Tensor, width: int) -> Tensor:
    """pictures (B, 3, H, W) → all tokens of each in text space (B, T, D_clip), on the CPU.

    ``width``: the D_clip that the MEA reads; another CLIP than the one it was trained with fails.
    """
    found = projection_width(clip_vision)
    if found != width:
        raise FlexEditError(
            f"This CLIP vision model projects to a width of {found}, but the MEA reads {width}. "
            "Connect the clip_vision output of the FlexEdit Loader that gives the MEA."
        )
    preprocess = getattr(clip_vision, "flexedit_preprocess", None)
    preprocess = preprocess or Preprocess(getattr(clip_vision, "image_size", 224))
    model_management.load_model_gpu(clip_vision.patcher)
    model = clip_vision.model
    pixels = preprocess(pictures.to(clip_vision.load_device)).float()
    states = model.vision_model(pixels)[0]
    projected = project_tokens(states, model.vision_model, model.visual_projection)
    return projected.to("cpu", torch.float32)


def projection_width(clip_vision: comfy.clip_vision.ClipVisionModel) -> int:
    projection = getattr(clip_vision.model, "visual_projection", None)
    if not isinstance(projection, nn.Module):
        raise FlexEditError(
            f"This CLIP_VISION holds a {type(clip_vision.model).__name__} without a projection to "
            "text space. Connect the clip_vision output of a FlexEdit Loader."
        )
    return projection.weight.shape[0]
