"""Segment Anything models with random weights, one folder of each class that is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoPromptEncoderConfig,
    Sam2VideoVideoProcessor,
    Sam2VisionConfig,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

from tests.tiny import made

try:
    from transformers import Sam2ImageProcessor
except ImportError:  # older versions have it by torchvision only
    from transformers import Sam2ImageProcessorFast as Sam2ImageProcessor

SIDE, WIDTH = 64, 32
PROMPTS = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
DECODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 64,
    "iou_head_hidden_dim": WIDTH,
    "iou_head_depth": 2,
}


def build_sam(folder: Path) -> None:
    vision = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 64,
        "image_size": SIDE,
        "output_channels": WIDTH,
        "num_pos_feats": WIDTH // 2,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    SamModel(config).save_pretrained(folder)
    pictures = SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 4},
        mask_pad_size={"height": SIDE // 4, "width": SIDE // 4},
    )
    SamProcessor(pictures).save_pretrained(folder)


def sam2_vision() -> Sam2VisionConfig:
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        embed_dim_per_stage=[8, 16, 24, 32],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        blocks_per_stage=[1, 1, 2, 1],
        global_attention_blocks=[3],
        window_size_per_stage=[4, 4, 4, 2],
        window_positional_embedding_background_size=[4, 4],
    )
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[32, 24, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=WIDTH,
    )


def sam2_pictures() -> Sam2ImageProcessor:
    mask_size = {"height": SIDE // 4, "width": SIDE // 4}
    return Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}, mask_size=mask_size)


def build_sam2(folder: Path) -> None:
    config = Sam2Config(
        vision_config=sam2_vision(), prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    Sam2Model(config).save_pretrained(folder)
    Sam2Processor(sam2_pictures()).save_pretrained(folder)


def build_sam2_video(folder: Path) -> None:
    """As SAM 2's makers share it: with the parts that follow an object through a video."""
    config = Sam2VideoConfig(
        vision_config=sam2_vision(),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(**PROMPTS),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            **DECODER
        ),  # transformers 5.5 mistakes dicts
        image_size=SIDE,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=WIDTH,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=WIDTH,
    )
    Sam2VideoModel(config).save_pretrained(folder)
    videos = Sam2VideoVideoProcessor(size={"height": SIDE, "width": SIDE})
    Sam2VideoProcessor(sam2_pictures(), videos).save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "sam": build_sam,
    "sam2": build_sam2,
    "sam2 video": build_sam2_video,
}


def make_tiny_sam(kind: str, folder: Path) -> Path:
    return made(KINDS[kind], folder)
