"""Masks: drawing what a person would scribble, painting it, reading it back (§3.3–3.4).

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from .errors import FlexEditError

SOLID = ("circle", "rectangle", "triangle", "irregular")
KINDS = SOLID + tuple(f"{kind} open" for kind in SOLID)
RANDOM_WALK = "random walk"

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 0.8, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "purple": (0.5, 0.0, 0.8),
    "orange": (1.0, 0.55, 0.0),
    "pink": (1.0, 0.4, 0.75),
    "cyan": (0.0, 0.9, 0.9),
}

SPECK = 0.002  # of the picture: smaller islands and holes of a mask that was read back are noise
MAX_SHIFT = 0.05  # of a channel: what a VAE may do to a picture's colours as a whole
FAINT = 0.01  # of a soft mask: its far edges and noise
EMPTY = "The mask is empty. Paint over the thing to edit, then queue again."

Box = tuple[int, int, int, int]  # left, top, right, bottom


# Drawing


def draw(
    kind: str,
    height: int,
    width: int,
    *,
    x: float = 0.5,
    y: float = 0.5,
    shape_width: float = 0.4,
    shape_height: float = 0.4,
    rotation: float = 0.0,
    stroke: float = 0.06,
    seed: int = 0,
) -> Tensor:
    """A free-shape mask (H, W): solid, or for the open kinds an outline `stroke` wide.

    x, y (the centre) and the sizes are fractions of the picture, `stroke` of its shorter side,
    `rotation` is in degrees clockwise; `seed` chooses the outline of the irregular kinds.
    Raises FlexEditError for an unknown kind, sizes not above 0, or a shape outside the picture.
    """
    if kind not in KINDS:
        raise FlexEditError(f"Unknown mask kind {kind!r}; choose one of {', '.join(KINDS)}.")
    if height < 1 or width < 1:
        raise FlexEditError(
            f"A mask of {width}×{height} pixels has no area; both must be at least 1."
        )
    numbers = (x, y, shape_width, shape_height, rotation, stroke)
    if not np.isfinite(numbers).all() or min(shape_width, shape_height) <= 0 or stroke <= 0:
        raise FlexEditError(
            f"shape_width {shape_width}, shape_height {shape_height} and stroke {stroke} "
            "must be above 0, and all positions finite."
        )
    mask = rasterise(
        kind,
        (height, width),
        center=(y * height, x * width),
        size=(shape_height * height, shape_width * width),
        rotation=rotation,
        stroke=stroke * min(height, width),
        wobble=np.random.default_rng(seed).normal(size=(2, 5)),
    )
    if not mask.any() and 0 <= x <= 1 and 0 <= y <= 1:  # smaller than a pixel
        mask[min(int(y * height), height - 1), min(int(x * width), width - 1)] = True
    if not mask.any():
        raise FlexEditError(
            f"The {kind} at x {x}, y {y} lies outside the picture. Move it inside or enlarge it."
        )
    return torch.from_numpy(mask).float()


def rasterise(
    kind: str,
    shape: tuple[int, int],
    *,
    center: tuple[float, float],
    size: tuple[float, float],
    rotation: float = 0.0,
    stroke: float = 1.0,
    wobble: np.ndarray | None = None,
) -> np.ndarray:
    """`draw` in pixels: center and size are (vertical, horizontal); bool (H, W), maybe empty.

    `wobble` (2, 5): cosine and sine amplitudes of the irregular outline.
    """
    mask = np.zeros(shape, bool)
    b, a = (max(side, 1.0) / 2 for side in size)
    angle = np.deg2rad(rotation)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    reach_y, reach_x = abs(sin) * a + abs(cos) * b, abs(cos) * a + abs(sin) * b
    top, bottom = (int(np.clip(center[0] + r, 0, shape[0])) for r in (-reach_y, reach_y + 1))
    left, right = (int(np.clip(center[1] + r, 0, shape[1])) for r in (-reach_x, reach_x + 1))
    if top >= bottom or left >= right:
        return mask
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - center[0])
    dx = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - center[1])
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    form, _, opened = kind.partition(" ")
    depth = _depth(form, u, v, a, b, wobble)
    inside = depth >= 0
    if opened:
        inside &= depth <= max(stroke, 1.0)
    mask[top:bottom, left:right] = inside
    return mask


def _depth(
    form: str, u: np.ndarray, v: np.ndarray, a: float, b: float, wobble: np.ndarray | None
) -> np.ndarray:
    """Distance in pixels from the outline of a form with half sizes a, b; positive inside."""
    if form == "rectangle":
        return np.minimum(a - np.abs(u), b - np.abs(v))
    if form == "triangle":  # apex up
        return np.minimum((a * (v + b) - 2 * b * np.abs(u)) / np.hypot(2 * b, a), b - v)
    length = np.hypot(u, v) + 1e-6  # circle, irregular: along the ray from the centre
    radius = length / np.maximum(np.hypot(u / a, v / b), 1e-6 / min(a, b))
    if form == "irregular":
        radius = radius * _outline(wobble)[(np.arctan2(v, u) * (256 / np.pi)).astype(int)]
    return radius - length


def _outline(wobble: np.ndarray | None) -> np.ndarray:
    """A closed wavy outline: radius in 0.35..1 at 512 angles, indexed from -256 to 256."""
    theta = np.arange(512) * (np.pi / 256)
    waves = np.arange(1, 6)[:, None] * theta
    wobble = np.zeros((2, 5)) if wobble is None else wobble / (1 + np.arange(5))
    radius = wobble[0] @ np.cos(waves) + wobble[1] @ np.sin(waves)
    low, span = radius.min(), np.ptp(radius)
    return (1 - 0.55 * (1 - (radius - low) / max(span, 1e-6))).astype(np.float32)


def random_walk(
    object_mask: np.ndarray | Tensor, rng: np.random.Generator, coverage: float | None = None
) -> np.ndarray:
    """W(m_o) of §3.3: a brush walks over the object until `coverage` of it is painted; bool (H, W).

    coverage defaults to U(0.2, 0.8); the brush stays inside the slightly dilated object.
    """
    whole = np.asarray(object_mask) > 0.5
    if not whole.any():
        raise FlexEditError(EMPTY)
    coverage = rng.uniform(0.2, 0.8) if coverage is None else coverage
    (top, bottom), (left, right) = extent(whole, 1), extent(whole, 0)
    margin = max(1, round(0.06 * max(bottom - top, right - left)))
    top, left = max(top - margin, 0), max(left - margin, 0)
    window = np.s_[top : bottom + margin, left : right + margin]
    target = whole[window]
    allowed = ndimage.binary_dilation(target, iterations=margin)
    height, width = target.shape

    area = int(target.sum())
    radius = max(1.0, rng.uniform(0.12, 0.3) * np.sqrt(area))
    reach = int(radius)
    offset = np.arange(-reach, reach + 1)
    brush = offset[:, None] ** 2 + offset**2 <= radius**2
    painted = np.zeros((height + 2 * reach, width + 2 * reach), bool)  # the brush never clips
    inner = painted[reach : reach + height, reach : reach + width]

    goal = max(1, min(round(coverage * area), area))
    heading, stride = rng.uniform(0, 2 * np.pi), max(1.0, 0.7 * radius)
    y, x = _any_pixel(target, rng)
    for step in itertools.count(1):
        painted[int(y) : int(y) + len(brush), int(x) : int(x) + len(brush)] |= brush
        bare = target & ~inner
        if area - np.count_nonzero(bare) >= goal:
            break
        if step % 24 == 0:  # lift the brush rather than wander for ever
            y, x = _any_pixel(bare, rng)
            continue
        for spread in (0.4, 0.8, 1.6, 3.2):
            angle = rng.normal(heading, spread)
            down, right = y + stride * np.sin(angle), x + stride * np.cos(angle)
            if 0 <= down < height and 0 <= right < width and allowed[int(down), int(right)]:
                y, x, heading = down, right, angle
                break
    walk = np.zeros_like(whole)
    walk[window] = inner & allowed
    return walk


def _any_pixel(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    inside = np.flatnonzero(mask)
    return divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])


def scribble(
    kind: str,
    object_mask: np.ndarray | Tensor,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """A loosely drawn `kind` on an object: part of it covered, often spilling over; bool (H, W).

    Covers 12–70 % of the object (open kinds 8–60 %), and more of it than of any of the
    `others` (N, H, W, bool).
    """
    return turned_scribble(kind, object_mask, rng, others)[0]


def turned_scribble(
    kind: str,
    object_mask: np.ndarray | Tensor,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, float | None]:
    """`scribble`, and the degrees clockwise by which the shape is turned.

    They are None for a random walk, which also stands in where the object is too thin or crowded.
    """
    target = np.asarray(object_mask) > 0.5
    if not target.any():
        raise FlexEditError(EMPTY)
    if kind == RANDOM_WALK:
        return random_walk(target, rng), None
    opened = kind.endswith("open")
    (top, bottom), (left, right) = extent(target, 1), extent(target, 0)
    height, width = bottom - top, right - left
    area = np.count_nonzero(target)
    low, high = (0.08, 0.6) if opened else (0.12, 0.7)
    for _ in range(24):
        dy, dx = rng.uniform(-0.32, 0.32, 2)
        grow = rng.uniform(0.7, 1.2) if opened else rng.uniform(0.45, 0.95)
        stretch = rng.uniform(0.8, 1.25)
        rotation = rng.uniform(0, 360) if "triangle" in kind else rng.uniform(-40, 40)
        mask = rasterise(
            kind,
            target.shape,
            center=(top + (0.5 + dy) * height, left + (0.5 + dx) * width),
            size=(grow * stretch * height, grow / stretch * width),
            rotation=rotation,
            stroke=rng.uniform(0.12, 0.22) * max(height, width) * grow,
            wobble=rng.normal(size=(2, 5)),
        )
        covered = np.count_nonzero(mask & target)
        if low * area <= covered <= high * area and all(
            np.count_nonzero(mask & other) < covered for other in others
        ):
            return mask, rotation
    mask = random_walk(target, rng, coverage=0.35)
    for other in others:
        mask &= ~other | target
    return mask, None


def free_shape(
    kind: str,
    height: int,
    width: int,
    batch: int = 1,
    *,
    object_mask: Tensor | None = None,
    seed: int = 0,
    **shape: float,
) -> Tensor:
    """A mask (batch, H, W) of any kind: one `draw`, or a random walk of each object's own.

    object_mask: what the random walk covers, of any size (only used by it).
    """
    if kind != RANDOM_WALK:
        return draw(kind, height, width, seed=seed, **shape).expand(batch, -1, -1)
    if object_mask is None:
        raise FlexEditError("A random walk needs the object it covers. Connect its mask.")
    objects = prepare_mask(object_mask, height, width, batch) > 0
    walks = [
        random_walk(one.numpy(force=True), np.random.default_rng([seed, index]))
        for index, one in enumerate(objects)
    ]
    return torch.from_numpy(np.stack(walks)).float()


def extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and one past the last index along the other axis of a mask (H, W) that is not empty."""
    line = np.asarray(mask.any(axis))
    return int(line.argmax()), len(line) - int(line[::-1].argmax())


# Painting and reading back


def paint(
    scene: Tensor,
    mask: Tensor,
    alpha: float = 0.5,
    color: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """scene (B, 3, H, W) with mask (B, H, W) painted over it, white at α 0.5 by default."""
    opacity = alpha * mask.to(scene).unsqueeze(1)
    return torch.lerp(scene, scene.new_tensor(color).view(1, 3, 1, 1).expand_as(scene), opacity)


def read_painted(
    scene: Tensor,
    painted: Tensor,
    color: Sequence[float] | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """The full mask (B, H, W) of 0 and 1 that a `segment` edit painted over the scene (§3.3).

    scene, painted (B, 3, H, W). A pixel is painted when it moved at least `threshold` of the way
    from the scene to the paint `color` (by default estimated from the pixels that changed most).
    Where the scene has the paint's own colour no move can be seen: there the neighbours decide.
    """
    if scene.shape != painted.shape:
        raise FlexEditError(
            f"The scene is {tuple(scene.shape)} but the painted picture {tuple(painted.shape)}; "
            "decode the segment task of this very scene."
        )
    return torch.stack(
        [
            _read_one(before, after, color, threshold)
            for before, after in zip(scene.float(), painted.float(), strict=True)
        ]
    )


def _read_one(
    scene: Tensor, painted: Tensor, color: Sequence[float] | None, threshold: float
) -> Tensor:
    moved = painted - scene
    size = moved.square().sum(0).sqrt()
    strongest = size.flatten().kthvalue(max(1, int((1 - SPECK) * size.numel()))).values
    if strongest < 0.1:
        return torch.zeros_like(size)
    if color is None:
        paint_color = painted[:, size >= 0.7 * strongest].median(dim=1).values
    else:
        paint_color = scene.new_tensor(color)
    way = paint_color.view(3, 1, 1) - scene
    distance = way.square().sum(0)
    progress = ((moved * way).sum(0) / distance.clamp_min(1e-4)).clamp(-0.5, 1.5)
    off_way = (painted - paint_color.view(3, 1, 1)).square().sum(0).sqrt()
    progress = progress - (off_way - 0.8).clamp_min(0)  # it moved, but to another colour

    certain = (distance / (distance + 0.04)).numpy(force=True)
    seen = certain * progress.numpy(force=True)
    sigma = max(1.0, min(seen.shape) / 32)
    around = ndimage.gaussian_filter(seen, sigma)
    around /= ndimage.gaussian_filter(certain, sigma) + 1e-6
    mask = seen + (1 - certain) * around >= threshold
    return torch.from_numpy(tidy(mask)).to(scene)


def tidy(mask: np.ndarray) -> np.ndarray:
    """mask (H, W) without specks, islands below a tenth of the largest, and small holes."""
    speck = SPECK * mask.size
    labels, num_islands = ndimage.label(mask, np.ones((3, 3)))
    if num_islands:
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        mask = (areas >= max(speck, 0.1 * areas.max()))[labels]
    holes, _ = ndimage.label(~mask)
    return mask | (np.bincount(holes.ravel(), minlength=1) < speck)[holes]


# Bringing inputs to one size


def num_masks(mask: Tensor) -> int:
    """How many masks (H, W), (B, H, W) or (B, 1, H, W) are"""
    return mask.shape[0] if mask.dim() > 2 else 1


def prepare_mask(mask: Tensor, height: int, width: int, batch: int = 1) -> Tensor:
    """Any mask (H, W), (B, H, W) or (B, 1, H, W) → (batch, height, width) float32 in 0..1.

    What is below FAINT becomes 0, for a soft mask is to have an outside too. Raises FlexEditError
    for an empty mask, NaN, or a batch that cannot be matched.
    """
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    elif mask.dim() == 2:
        mask = mask.unsqueeze(0)
    if mask.dim() != 3 or 0 in mask.shape:
        raise FlexEditError(
            f"The mask has shape {tuple(mask.shape)}; expected (H, W), (B, H, W) or (B, 1, H, W)."
        )
    mask = mask.float()
    if not torch.isfinite(mask).all():
        raise FlexEditError(
            "The mask contains NaN or infinite values. Check the node that made it."
        )
    if mask.shape[0] not in (1, batch):
        raise FlexEditError(
            f"There are {mask.shape[0]} masks for {batch} pictures. "
            "Give one mask, or one for every picture."
        )
    mask = mask.clamp(0.0, 1.0)
    mask = mask * (mask >= FAINT)
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


# The edited region


def connected_change(
    scene: Tensor,
    edited: Tensor,
    mask: Tensor,
    threshold: float = 0.07,
    seen: Tensor | None = None,
) -> Tensor:
    """The area that really changed and is connected to the mask, (B, H, W) of 0 and 1.

    scene, edited (B, 3, H, W), mask (B, H, W); `threshold` is the change of a pixel and its
    neighbours, on average, that counts. What was added and outgrows the mask belongs to it, changes
    elsewhere do not. The fine detail that a VAE loses averages out, and the shift of colours that
    it gives to the whole picture is no change; `seen` (B, H, W): where there is an edit at all.
    """
    moved = edited.float() - scene.float()
    outside = mask == 0 if seen is None else (mask == 0) & (seen > 0)
    shift = torch.stack(
        [_color_shift(one[:, out]) for one, out in zip(moved, outside, strict=True)]
    )
    around = F.avg_pool2d(moved - shift.view(-1, 3, 1, 1), 3, 1, 1).abs().amax(1)
    regions = []
    for changed, seed in zip((around > threshold).numpy(force=True), _support(mask), strict=True):
        changed = ndimage.binary_opening(changed, np.ones((3, 3)))
        labels, _ = ndimage.label(changed | seed, np.ones((3, 3)))
        touched = np.unique(labels[seed])
        regions.append(changed & np.isin(labels, touched[touched > 0]))
    return torch.from_numpy(np.stack(regions)).to(mask)


def _color_shift(moved: Tensor) -> Tensor:
    """moved (3, N) → how far most pixels moved (3,); 0 if that is too far for a mere shift."""
    if not moved.numel():
        return moved.new_zeros(3)
    shift = moved.median(1).values
    return shift if shift.abs().amax() <= MAX_SHIFT else torch.zeros_like(shift)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) grown by a disc of `pixels` (shrunk where negative), 0 and 1."""
    if pixels == 0:
        return mask
    support = _support(mask)
    grown = [
        _distance(~one) <= pixels if pixels > 0 else _distance(one) > -pixels for one in support
    ]
    return torch.from_numpy(np.stack(grown)).to(mask)


def feather(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) fading to 0 over `pixels` inside its border; outside it stays 0."""
    if pixels <= 0:
        return mask
    ramp = [np.minimum(_distance(one) / (pixels + 1), 1) for one in _support(mask)]
    return mask * torch.from_numpy(np.stack(ramp)).to(mask)


def _support(mask: Tensor) -> np.ndarray:
    return (mask > 0).numpy(force=True)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the nearest False; infinite where there is none."""
    return np.full(mask.shape, np.inf) if mask.all() else ndimage.distance_transform_edt(mask)


def composite(scene: Tensor, edited: Tensor, region: Tensor) -> Tensor:
    """`edited` inside the region, the scene's own pixels bit for bit where the region is 0.

    scene, edited (B, 3, H, W), region (B, H, W) in 0..1, blended between.
    """
    weight = region.to(scene).unsqueeze(1)
    return torch.where(weight > 0, torch.lerp(scene, edited.to(scene), weight), scene)


def bounding_crop(mask: Tensor, context: float = 2.0, minimum: int = 64) -> list[Box]:
    """One square (left, top, right, bottom) around each mask (B, H, W), `context` times its size.

    At a border the square is shifted, not shrunk; a picture smaller than it is taken whole on
    that side. Raises FlexEditError for an empty mask.
    """
    height, width = mask.shape[1:]
    boxes = []
    for one in _support(mask):
        if not one.any():
            raise FlexEditError(EMPTY)
        (top, bottom), (left, right) = extent(one, 1), extent(one, 0)
        longest = max(bottom - top, right - left)
        side = max(round(context * longest), longest, minimum)
        box_width, box_height = min(side, width), min(side, height)
        x = min(max((left + right - box_width) // 2, 0), width - box_width)
        y = min(max((top + bottom - box_height) // 2, 0), height - box_height)
        boxes.append((x, y, x + box_width, y + box_height))
    return boxes
