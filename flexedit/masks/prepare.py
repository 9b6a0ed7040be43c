"""Bringing pictures and masks to one form, one batch and one size.

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FlexEditError
from ..files import BACKDROP

FAINT = 0.01  # of a soft mask: its far edges and noise
EMPTY = "The mask is empty. Paint over the thing to edit, then queue again."
PADDED_TO = (4, 8)  # multiples to which we round a picture's sides up for its VAE
CUT_TO = (4, 8, 16)  # to which ComfyUI rounds them down


def check_picture(picture: Tensor, name: str) -> Tensor:
    """Any picture (…, C, H, W) of 1, 3 or 4 channels and finite numbers → (B, C, H, W), else raises
    FlexEditError.
    """
    if picture.dim() == 3:
        picture = picture.unsqueeze(0)
    if picture.dim() != 4 or picture.shape[1] not in (1, 3, 4) or 0 in picture.shape:
        raise FlexEditError(
            f"The {name} has shape {tuple(picture.shape)}; "
            "expected a batch of grey, RGB or RGBA pictures."
        )
    if not torch.isfinite(torch.stack([picture.amin(), picture.amax()])).all():  # NaN is both
        raise FlexEditError(
            f"The {name} contains NaN or infinite pixels. Check the node or file that made it."
        )
    return picture


def prepare_picture(picture: Tensor, name: str) -> Tensor:
    """Any picture (…, C, H, W) → (B, 3, H, W) float32 in 0..1, see `opaque`."""
    return opaque(check_picture(picture, name))


def opaque(picture: Tensor) -> Tensor:
    """picture (B, C, H, W) → (B, 3, H, W) float32 in 0..1: grey is repeated, and what has alpha is
    laid over BACKDROP, so that colours hidden by it count for nothing.
    """
    picture = picture.float()
    if picture.amin() < 0 or picture.amax() > 1:
        picture = picture.clamp(0.0, 1.0)
    if picture.shape[1] == 4:
        return torch.lerp(picture.new_tensor(BACKDROP), picture[:, :3], picture[:, 3:])
    return picture.expand(-1, 3, -1, -1)


def common_batch(sizes: dict[str, int]) -> int:
    """The batch size that all inputs broadcast to: each has 1 or the same number."""
    counts = {size for size in sizes.values() if size != 1}
    if len(counts) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise FlexEditError(
            f"Batch sizes do not match ({found}). Give every input one picture or the same number."
        )
    return counts.pop() if counts else 1


def num_masks(mask: Tensor) -> int:
    """How many masks (H, W), (B, H, W) or (B, 1, H, W) are"""
    return mask.shape[0] if mask.dim() > 2 else 1


def one_of(batch: Tensor, row: int) -> Tensor:
    """(1, …) of a batch; a batch of one serves every row."""
    row = min(row, batch.shape[0] - 1)
    return batch[row : row + 1]


def check_mask(mask: Tensor) -> Tensor:
    """Any mask (H, W), (B, H, W) or (B, 1, H, W) → (B, H, W), else raises FlexEditError."""
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    elif mask.dim() == 2:
        mask = mask.unsqueeze(0)
    if mask.dim() != 3 or 0 in mask.shape:
        raise FlexEditError(
            f"The mask has shape {tuple(mask.shape)}; expected (H, W), (B, H, W) or (B, 1, H, W)."
        )
    return mask


def prepare_mask(mask: Tensor, height: int, width: int, batch: int = 1) -> Tensor:
    """Any mask (H, W), (B, H, W) or (B, 1, H, W) → (batch, height, width) float32 in 0..1.

    What is no more than FAINT becomes 0, for a soft mask is to have an outside too. Raises
    FlexEditError for an empty mask, NaN, or a batch that cannot be matched.
    """
    mask = check_mask(mask).float()
    low, high = mask.aminmax()
    if not torch.isfinite(torch.stack([low, high])).all():
        raise FlexEditError(
            "The mask contains NaN or infinite values. Check the node that made it."
        )
    if mask.shape[0] not in (1, batch):
        raise FlexEditError(
            f"There are {mask.shape[0]} masks for {batch} pictures. "
            "Give one mask, or one for every picture."
        )
    if low < 0 or high > 1:
        mask = mask.clamp(0.0, 1.0)
    mask = F.threshold(mask, FAINT, 0.0)
    if mask.shape[1:] != (height, width):
        mask = (
            F.interpolate(
                mask.unsqueeze(1),
                (height, width),
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
            .squeeze(1)
            .clamp(0.0, 1.0)
        )
    if not (mask.amax((1, 2)) > 0).all():
        raise FlexEditError(EMPTY)
    return mask.expand(batch, -1, -1)


def extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and one past the last index along the other axis of a mask (H, W) that is not empty."""
    line = np.asarray(mask.any(axis))
    return int(line.argmax()), len(line) - int(line[::-1].argmax())


def window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) that is not empty, and of ``margin`` pixels around it."""
    (top, bottom), (left, right) = extent(mask, 1), extent(mask, 0)
    rows = slice(max(top - margin, 0), bottom + margin)
    return rows, slice(max(left - margin, 0), right + margin)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """image (B, C, H, W) grown right and bottom to multiples, its edges repeated."""
    height, width = image.shape[-2:]
    right, bottom = padded(width, multiple) - width, padded(height, multiple) - height
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def padded(side: int, multiple: int) -> int:
    """`side` rounded up to a multiple; two of them at least, for one value cannot be normalised."""
    return max(side + -side % multiple, 2 * multiple)


def unpad(image: Tensor, height: int, width: int) -> Tensor:
    """The top left height × width of image (…, H, W): undoes `pad_to_multiple`."""
    return image[..., :height, :width]


def fit(picture: Tensor, height: int, width: int) -> Tensor:
    """picture (B, C, h, w) → (B, C, height, width).

    For a VAE we round the sides up: the padding is cut off. ComfyUI rounds them down: the edge that
    it cut off all around is filled. Any other picture is scaled.
    """
    size = tuple(picture.shape[-2:])
    outer = {(padded(height, ratio), padded(width, ratio)) for ratio in PADDED_TO}
    inner = {(height - height % ratio, width - width % ratio) for ratio in CUT_TO}
    if size in outer:
        return unpad(picture, height, width)
    if size in inner:
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        margins = (left, width - size[1] - left, top, height - size[0] - top)
        return F.pad(picture, margins, mode="replicate")
    return resize(picture, height, width)


def resize(picture: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """picture (B, C, h, w) → (B, C, height, width) in 0..1, without aliasing; itself if it fits."""
    if tuple(picture.shape[-2:]) == (height, width):
        return picture
    return F.interpolate(picture, (height, width), mode=mode, antialias=True).clamp(0, 1)
