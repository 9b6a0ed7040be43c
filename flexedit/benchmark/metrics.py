"""What a run is worth: every metric of every case, as flat rows.

Foreground is the truth's edited region, background all the rest, where truth equals scene. A
metric is None where it is undefined (an empty region has no foreground) or not available.
Pictures are (H, W, 3) uint8, masks and regions (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.sample import pictures
from ..errors import FlexEditError
from ..masks import bounding_crop, read_painted, window
from ..prompts import BACKGROUND
from .cases import FORMS, Benchmark, Case
from .encoders import CLIP, DINO, Encoders
from .extra import require
from .judge import Judge
from .run import Run

BEST_PSNR = 100.0  # dB; equal pictures have no error, and infinity has no mean
SSIM_WINDOW = 11  # pixels a side; a smaller picture has no SSIM
SMALLEST_CROP = 8  # pixels a side; in less an encoder sees nothing
JUDGED = "world"  # the source of the cases whose things the judge knows

PICTURE_METRICS = (
    "psnr", "lpips", "clip_i", "dino",
    "fg_psnr", "fg_clip_t", "fg_clip_i", "fg_dino",
    "bg_psnr", "bg_ssim", "bg_lpips",
)  # fmt: skip
MASK_METRICS = ("iou", "scribble_iou", "label_right")


def require_packages() -> None:
    """Told before a benchmark runs for hours: raises FlexEditError if one is missing."""
    require("Measuring", "torchmetrics", "pandas", "jinja2", "matplotlib")


def score(
    benchmark: Benchmark,
    run: Run,
    encoders: Encoders,
    judge: Judge | None,
    forms: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """One JSON-able row for each kept case and each of the forms of mask, by default all that were
    run.

    Its keys: system, case, form, group, operation, kind, setting, subject_setting, extent (the
    longer side of the box around the region, as a share of the picture's), status ("ok" or
    "failed"), those of :func:`picture_metrics` and :func:`mask_metrics`, success (1.0 where the
    judge sees what truth shows; None without a judge, and for cases whose things it does not
    know) and seconds. A failed case has no picture metrics, and 0 for success, iou and
    label_right. Raises FlexEditError for a run that is not finished.
    """
    wanted = {result.form for result in run.results} if forms is None else forms
    if not wanted:
        raise FlexEditError(f"{run.folder} has no results yet. Finish the run, then score it.")
    rows = []
    for case in benchmark.kept:
        loaded = LoadedCase.load(benchmark, case)
        for form in (form for form in FORMS if form in wanted):
            output = loaded.output(run, form, "edit")
            result = run.result(case.id, form)
            assert result is not None  # else there would have been no output
            rows.append(
                {
                    "system": run.system["name"],
                    "case": case.id,
                    "form": form,
                    "group": case.group,
                    "operation": case.operation,
                    "kind": case.kind,
                    "setting": case.setting,
                    "subject_setting": case.subject_setting,
                    "extent": extent(loaded.region),
                    "status": result.status,
                    **picture_metrics(loaded, output, encoders),
                    **mask_metrics(loaded, run, form),
                    "success": success(loaded, output, judge),
                    "seconds": result.seconds,
                }
            )
    return rows


def extent(region: np.ndarray) -> float | None:
    """How much of a picture a region (H, W) spans in height or width, whichever is more: 0..1."""
    if not region.any():
        return None
    height, width = region[window(region, 0)].shape
    return max(height / region.shape[0], width / region.shape[1])


@dataclass(frozen=True)
class LoadedCase:
    """A case with its pictures; ``masks`` by form."""

    case: Case
    scene: np.ndarray
    truth: np.ndarray
    region: np.ndarray
    masks: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, benchmark: Benchmark, case: Case) -> LoadedCase:
        scene, truth, region, free, full = (
            benchmark.picture(case, name)
            for name in ("scene", "truth", "region", "mask", "full_mask")
        )
        return cls(case, scene, truth, region, {"free": free, "full": full})

    def output(self, run: Run, form: str, task: str) -> np.ndarray | None:
        """What the system made of the case; None if it failed."""
        output = run.picture(self.case.id, form, task)
        if output is not None and output.shape != self.truth.shape:
            raise FlexEditError(
                f"The {task} of case {self.case.id!r} is {output.shape[1]}×{output.shape[0]} "
                f"pixels, its scene {self.truth.shape[1]}×{self.truth.shape[0]}. Run it again on "
                "this benchmark."
            )
        return output


def picture_metrics(
    loaded: LoadedCase, output: np.ndarray | None, encoders: Encoders
) -> dict[str, float | None]:
    """The output against truth; all None without an output.

    psnr, lpips, clip_i, dino: the whole picture · fg_: inside the region, or for encoders in its
    bounding box; fg_clip_t: against the case's caption · bg_: outside the region; bg_ssim and
    bg_lpips look at pictures whose regions are equal, for they see across its border.
    """
    if output is None:
        return dict.fromkeys(PICTURE_METRICS)
    truth, region = loaded.truth, loaded.region
    clip_i, fg_clip_i = similarities(encoders.clip, output, truth, region)
    dino, fg_dino = similarities(encoders.dino, output, truth, region)
    lpips = encoders.lpips
    outside_edited = np.where(region[..., None], truth, output)
    return {
        "psnr": psnr(output, truth),
        "lpips": lpips(output, truth) if lpips else None,
        "clip_i": clip_i,
        "dino": dino,
        "fg_psnr": psnr(output, truth, region),
        "fg_clip_t": clip_t(encoders.clip, output, region, loaded.case.caption),
        "fg_clip_i": fg_clip_i,
        "fg_dino": fg_dino,
        "bg_psnr": psnr(output, truth, ~region),
        "bg_ssim": ssim(outside_edited, truth, ~region),
        "bg_lpips": lpips(outside_edited, truth) if lpips and not region.all() else None,
    }


def mask_metrics(loaded: LoadedCase, run: Run, form: str) -> dict[str, float | None]:
    """How well a system understood the mask of a case; None where it means no object.

    iou: the mask read back from the painted picture against the whole object, None for a system
    that paints none · scribble_iou: the given mask against it · label_right: whether the reply
    named the object, None for a system that never replies and where nobody knows the name; one
    that paints is taken to reply if all its painting failed.
    """
    label = loaded.case.label
    if label == BACKGROUND:
        return dict.fromkeys(MASK_METRICS)
    paints = any(result.task == "segment" for result in run.results)
    task = "segment" if paints else "edit"  # what the system was asked that names the object
    asked = [result for result in run.results if result.task == task]
    all_failed = all(result.status == "failed" for result in asked)
    talks = any(result.reply for result in asked) or (paints and all_failed)
    painted = loaded.output(run, form, "segment") if paints else None
    result = run.result(loaded.case.id, form, task)
    assert result is not None
    return {
        "iou": painted_iou(loaded, painted) if paints else None,
        "scribble_iou": iou(loaded.masks[form], loaded.masks["full"]),
        "label_right": float(result.label == label) if talks and label else None,
    }


def painted_iou(loaded: LoadedCase, painted: np.ndarray | None) -> float | None:
    """IoU of the full mask that a system painted over the scene; 0 if it failed."""
    if painted is None:
        return 0.0
    read = read_painted(pictures([loaded.scene]), pictures([painted]))[0] > 0.5
    return iou(read.numpy(), loaded.masks["full"])


def success(loaded: LoadedCase, output: np.ndarray | None, judge: Judge | None) -> float | None:
    """1.0 if the judge sees in the region what truth shows there."""
    if judge is None or loaded.case.source != JUDGED or not loaded.region.any():
        return None
    if output is None:
        return 0.0
    (answer,) = judge.answers([output], [loaded.region])
    return float(answer == loaded.case.result_label)


# One pair of pictures


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float | None:
    """dB over the pixels of ``where`` (by default all), from their mean squared error.

    At most BEST_PSNR, which equal pictures have; None if there are no pixels.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    if where is None:
        where = np.ones(a.shape[:2], bool)
    if not where.any():
        return None
    first, second = (torch.from_numpy(picture[where]).double() for picture in (a, b))
    return min(float(peak_signal_noise_ratio(first, second, data_range=255.0)), BEST_PSNR)


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float | None:
    """Mean over the pixels of ``where`` (by default all) and channels of the full SSIM map.

    Gaussian window, σ 1.5: a pixel's value depends on those up to 5 away, also across the border
    of ``where``. None if there are no pixels, or if a side is shorter than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if where is None:
        where = np.ones(a.shape[:2], bool)
    if not where.any() or min(where.shape) < SSIM_WINDOW:
        return None
    first, second = pictures([a, b]).split(1)
    _, full = structural_similarity_index_measure(
        first, second, data_range=1.0, return_full_image=True
    )
    return float(full[0, :, torch.from_numpy(where)].mean())


def iou(a: np.ndarray, b: np.ndarray) -> float | None:
    """Intersection over union of two masks; None if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else None


def similarities(
    encoder: CLIP | DINO | None, output: np.ndarray, truth: np.ndarray, region: np.ndarray
) -> tuple[float | None, float | None]:
    """Cosine of the embeddings of two whole pictures, and of their crops around the region."""
    if encoder is None:
        return None, None
    seen = [output, truth]
    if region.any():
        seen += [region_crop(output, region), region_crop(truth, region)]
    embeddings = encoder.pictures(seen)
    cosines = (embeddings[::2] * embeddings[1::2]).sum(-1).tolist()
    return cosines[0], cosines[1] if region.any() else None


def clip_t(
    clip: CLIP | None, output: np.ndarray, region: np.ndarray, caption: str | None
) -> float | None:
    """CLIPScore of the crop around the region and its caption: 100 · cosine, not below 0."""
    if clip is None or not caption or not region.any():
        return None
    cosine = clip.pictures([region_crop(output, region)])[0] @ clip.texts([caption])[0]
    return 100 * max(float(cosine), 0.0)


def region_crop(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The square around the region's bounding box, of SMALLEST_CROP pixels at least.

    At a border it is shifted inside; a picture that is narrower is taken whole on that side.
    """
    ((left, top, right, bottom),) = bounding_crop(torch.from_numpy(region[None]), 1, SMALLEST_CROP)
    return picture[top:bottom, left:right]
