"""A folder's CLIP vision tower as ComfyUI's CLIP_VISION, and all of its tokens in text space."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.clip_vision
import torch
from comfy import model_management
from torch import Tensor, nn

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import ModelFolder, check_shapes
from ...flexedit.model_folder.weights import read_weights
from ...flexedit.models.clip import picture_tokens
from ...flexedit.models.parts import PictureTokens
from ...flexedit.models.preprocess import Fit, Preprocess
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


def tokens(
    clip_vision: comfy.clip_vision.ClipVisionModel,
    pictures: Tensor,
    fit: Fit = "padded",
    width: int | None = None,
    vision_width: int | None = None,
) -> PictureTokens:
    """pictures (B, 3, H, W) as CLIP sees them, fitted so, on the CPU.

    The widths that are read, of projected tokens and of raw patches, where they are; another CLIP
    than the one that the reader was trained with is refused.
    """
    makes, sees = projection_of(clip_vision).weight.shape
    if width not in (None, makes):
        refuse(f"This CLIP vision model projects to a width of {makes}", width)
    if vision_width not in (None, sees):
        refuse(f"This CLIP vision model sees patches of a width of {sees}", vision_width)
    preprocess = getattr(clip_vision, "flexedit_preprocess", None)
    preprocess = preprocess or Preprocess(getattr(clip_vision, "image_size", 224))
    model_management.load_model_gpu(clip_vision.patcher)
    model = clip_vision.model
    preprocess = replace(preprocess, fit=fit)
    pixels = preprocess(pictures.to(clip_vision.load_device)).float()
    seen = picture_tokens(
        model.vision_model, model.visual_projection, fit, lambda: model.vision_model(pixels)[0]
    )
    projected, raw = (one.to("cpu", torch.float32) for one in (seen.projected, seen.raw))
    return replace(seen, projected=projected, raw=raw)


def refuse(has: str, wanted: int | None) -> None:
    raise FlexEditError(
        f"{has}, but the MEA reads {wanted}. Connect the clip_vision output of the FlexEdit Loader "
        "that gives the MEA."
    )


def projection_of(clip_vision: comfy.clip_vision.ClipVisionModel) -> nn.Module:
    projection = getattr(clip_vision.model, "visual_projection", None)
    if not isinstance(projection, nn.Module):
        raise FlexEditError(
            f"This CLIP_VISION holds a {type(clip_vision.model).__name__} without a projection to "
            "text space. Connect the clip_vision output of a FlexEdit Loader."
        )
    return projection
