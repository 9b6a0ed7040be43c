"""From a scribble to the objects that it may mean, by a Segment Anything model: it is prompted with
points on the scribble and the box around it; of the masks that it proposes those are candidates
that touch the scribble and differ.

H × W a picture's size, h × w a smaller copy's, P prompts, N points, M masks per prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from ..errors import FlexEditError
from ..masks import extent
from ..model_folder import by_library, load_pretrained
from ..packages import needed
from .candidates import Candidate, Resolution, distinct, halves

SIDE = 256  # pixels of the longer side at which scribbles and masks are compared
NUM_POINTS = 5  # on a scribble
PROCESSORS = {  # by model; the others take SAM 2's, also where their folder names one for videos
    "SamModel": "SamProcessor",
    "SamHQModel": "SamHQProcessor",
    "Sam3TrackerModel": "Sam3TrackerProcessor",
}
OWN = 0.5  # of a half of the scribble: its own object has more of it, another one less


class Sam(nn.Module):
    """A transformers mask-generation model (SAM, SAM 2 …) and its processor, of the same folder.

    Wrapped as a plain module, so that device and dtype are moved like any other part's.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    def memory_required(self) -> int:
        """About how many bytes it takes to look at a picture: SAM's ViT attends from each patch of
        16 × 16 pixels to each; the others need less.
        """
        num_patches = (self.processor.target_size // 16) ** 2
        heads = getattr(self.model.config.vision_config, "num_attention_heads", 8)
        return int(3 * heads * num_patches**2 * self.model.dtype.itemsize)

    @torch.inference_mode()
    def resolve(self, scene: Tensor, mask: Tensor) -> Resolution:
        """scene (3, H, W) and mask (H, W) in 0..1, the mask not empty → what it may mean

        Confidence is the IoU that the model predicts. Raises FlexEditError if it finds nothing.
        """
        whole = meant(mask)
        scribbles = [whole, *(part for part in halves(whole) if part.any())]
        logits, scores, sizes = self.propose(scene, scribbles)
        num_masks = logits.shape[1]
        logits, scores = logits.flatten(0, 1), scores.ravel()

        regions = self._masks(logits, sizes, whole.shape)
        ranked = [
            [index for index in np.argsort(-scores) if index // num_masks == prompt]
            for prompt in range(len(scribbles))
        ]
        order, *by_half = (
            [index for index in one if (regions[index] & scribble).any()]
            for one, scribble in zip(ranked, scribbles, strict=True)
        )
        things = [one[0] for one in by_half if one]
        ambiguous = are_two_things(scribbles[1:], regions[things])
        if ambiguous:
            order = [*sorted(things, key=lambda index: -scores[index]), *order]
        kept = distinct(regions.reshape(len(regions), -1), None, order)
        if not kept:
            raise FlexEditError(
                "SAM found nothing under the scribble. Scribble over more of the thing, or choose "
                "the method classic."
            )
        found = self._masks(logits[kept], sizes, mask.shape)
        confidence = scores[kept].clip(0, 1).tolist()
        candidates = map(Candidate, found, confidence)
        both_kept = kept[:2] == order[:2]  # not so if the two things are nearly one
        return Resolution(tuple(candidates), ambiguous and both_kept)

    def propose(
        self, scene: Tensor, scribbles: Sequence[np.ndarray]
    ) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
        """scene (3, H, W), P scribbles (h, w) bool → logits of masks (P, M, ·, ·), the IoU that is
        predicted for each (P, M), and the sizes by which the processor undoes its padding.

        Half of the masks are for the points of a scribble alone, half for its points and its box.
        """
        pixels = (scene * 255).round().byte().movedim(0, -1).numpy(force=True)
        (height, width), (rows, columns) = pixels.shape[:2], scribbles[0].shape
        scale = np.array([width / columns, height / rows])
        inputs = self.processor(
            images=Image.fromarray(pixels),
            input_points=[[(points_on(one) * scale).tolist() for one in scribbles]],
            input_labels=[[[1] * NUM_POINTS for _ in scribbles]],
            input_boxes=[[(box_around(one) * [*scale, *scale]).tolist() for one in scribbles]],
            return_tensors="pt",
        )
        device, dtype = self.model.device, self.model.dtype
        embeddings = self.model.get_image_embeddings(inputs["pixel_values"].to(device, dtype))
        seen = {"image_embeddings": embeddings}
        if isinstance(embeddings, tuple):  # SAM-HQ also decodes from early layers
            seen = {"image_embeddings": embeddings[0], "intermediate_embeddings": embeddings[1]}
        prompts = {
            "input_points": inputs["input_points"].to(device, torch.float32),
            "input_labels": inputs["input_labels"].to(device),
        }
        box = {"input_boxes": inputs["input_boxes"].to(device, torch.float32)}
        answers = [self.model(**seen, **prompts), self.model(**seen, **prompts, **box)]
        logits = torch.cat([answer.pred_masks[0] for answer in answers], 1).float().cpu()
        scores = torch.cat([answer.iou_scores[0] for answer in answers], 1)
        sizes = {name: inputs[name] for name in ("reshaped_input_sizes",) if name in inputs}
        return logits, scores.float().numpy(force=True), sizes

    def _masks(self, logits: Tensor, sizes: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
        """logits (K, ·, ·) as the model gives them → masks (K, *shape) bool"""
        post_process, size = self.processor.post_process_masks, {"original_sizes": [tuple(shape)]}
        masks = []
        for one in logits:  # each by itself: all of a large picture at once could not be cancelled
            (made,) = post_process(masks=one[None, None, None], **size, **sizes)
            masks.append(made[0].numpy())
        return np.concatenate(masks)


@needed("transformers")
def load_sam(folder: Path, dtype: torch.dtype = torch.float32) -> Sam:
    """Any transformers mask-generation folder with its processor."""
    import transformers
    from transformers import AutoModelForMaskGeneration

    model = load_pretrained(AutoModelForMaskGeneration, folder, dtype)
    kind = getattr(transformers, PROCESSORS.get(type(model).__name__, "Sam2Processor"))
    processor = by_library(folder, kind.from_pretrained, folder, local_files_only=True)
    return Sam(model, processor).eval()


def meant(mask: Tensor) -> np.ndarray:
    """mask (H, W), not empty → what is scribbled on or encircled, small: (h, w) bool"""
    scale = min(1.0, SIDE / max(mask.shape))
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    drawn = (mask >= mask.max() / 2)[None].float()
    small = F.adaptive_max_pool2d(drawn, (height, width))[0]  # thin lines stay, beside thick ones
    return ndimage.binary_fill_holes(small.numpy(force=True) > 0)


def points_on(scribble: np.ndarray) -> np.ndarray:
    """scribble (h, w) bool → NUM_POINTS (x, y) well inside it and apart from one another (N, 2)"""
    depth = ndimage.distance_transform_edt(np.pad(scribble, 1))[1:-1, 1:-1][scribble]
    places = np.argwhere(scribble)
    chosen = [int(depth.argmax())]
    away = np.full(len(places), np.inf)
    while len(chosen) < NUM_POINTS:
        away = np.minimum(away, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int((away * depth).argmax()))
    return places[chosen][:, ::-1] + 0.5


def box_around(scribble: np.ndarray) -> np.ndarray:
    """scribble (h, w) bool → left, top, right, bottom (4,)"""
    (top, bottom), (left, right) = extent(scribble, 1), extent(scribble, 0)
    return np.array([left, top, right, bottom])


def are_two_things(parts: Sequence[np.ndarray], found: np.ndarray) -> bool:
    """Whether each half of a scribble (h, w) lies on an object (2, h, w) that lacks the other."""
    if len(parts) < 2 or len(found) < 2:
        return False
    share = np.array([[(part & one).sum() / part.sum() for one in found] for part in parts])
    return bool(share.diagonal().min() >= OWN > max(share[0, 1], share[1, 0]))
