"""Scribbles on photographs, resolved: the tables of docs/resolving.md, on held-out photographs.

python -m tools.resolve            all tables (--cut-outs N: how many of these, 0 for none)
python -m tools.resolve fit        the numbers of flexedit.resolve, from the development half

GrabCut, the baseline, needs opencv-python-headless; without it that column is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, permutations
from typing import Any

import numpy as np
import torch

from flexedit import masks
from flexedit.resolve import classic, prior
from flexedit.resolve.candidates import halves
from flexedit.resolve.prior import probability
from flexedit.resolve.resolver import resolve
from flexedit.resolve.superpixels import merge, superpixels
from flexedit.resolve.window import Window
from tools.photographs import KINDS, Case, annotated, cut_out_pairs, cut_outs

PIXELS = 1500  # of each window, to fit the prior
ONE_THING = 0.05  # of the scribbles on one thing may be called ambiguous
Row = Mapping[str, Any]


def table(num_cut_outs: int) -> None:
    rows = [measure(case) for case in annotated()]
    rows += [measure(case) for case in islice(cut_outs("held out"), num_cut_outs)]
    columns = [
        name for name in ("scribble", "GrabCut", "classic", "best of six") if name in rows[0]
    ]
    print(f"\n| | cases | {' | '.join(columns)} | classic − scribble |")
    print("|---" * (len(columns) + 3) + "|")
    for name, part in groups(rows):
        means = {column: statistics.mean(row[column] for row in part) for column in columns}
        figures = " | ".join(f"{mean:.3f}" for mean in means.values())
        gain = means["classic"] - means["scribble"]
        print(f"| {name} | {len(part)} | {figures} | {gain:+.3f} |")
    low, high = interval(rows)
    print(f"\nclassic − scribble: 95 % interval {low:+.3f} to {high:+.3f}, drawn by thing")
    confidence = statistics.mean(row["confidence"] for row in rows)
    print(f"mean confidence {confidence:.3f}, which should be the mean IoU of classic")
    pairs = islice(cut_out_pairs("held out"), num_cut_outs // 3)
    ambiguity(rows, [measure(case) for case in pairs])


def groups(rows: Sequence[Row]) -> Iterable[tuple[str, Sequence[Row]]]:
    for kind in KINDS:
        yield kind, [row for row in rows if row["kind"] == kind]
    for source in dict.fromkeys(row["source"] for row in rows):
        yield f"**{source}**", [row for row in rows if row["source"] == source]
    yield "**all**", rows


def interval(rows: Sequence[Row]) -> np.ndarray:
    """Of the mean gain; scribbles on one thing succeed or fail together, so things are drawn."""
    gains: dict[str, list[float]] = {}
    for row in rows:
        gains.setdefault(row["name"], []).append(row["classic"] - row["scribble"])
    sums = np.array([(sum(one), len(one)) for one in gains.values()])
    draws = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    total, count = sums[draws].sum(1).T
    return np.quantile(total / count, (0.025, 0.975))


def ambiguity(rows: Sequence[Row], pairs: Sequence[Row]) -> None:
    for name, part in (("one thing", rows), ("two things", pairs)):
        if part:
            said = statistics.mean(row["ambiguous"] for row in part)
            print(f"called ambiguous, of {len(part)} scribbles on {name}: {said:.2f}")
    if called := [row for row in pairs if row["ambiguous"]]:
        shown = statistics.mean(row["both"] for row in called)
        print(f"mean IoU of candidates 1 and 2 with the two things, where called so: {shown:.2f}")


def measure(case: Case) -> Row:
    whole = np.logical_or.reduce(case.objects)
    scribble = torch.from_numpy(case.scribble).float()
    (found,) = resolve(case.scene[None], scribble[None]).resolutions
    ious = [iou(candidate.mask, whole) for candidate in found.candidates]
    row: dict[str, Any] = {
        "kind": case.kind,
        "source": case.source,
        "name": case.name,
        "scribble": iou(case.scribble, whole),
        "classic": ious[0],
        "best of six": max(ious),
        "confidence": found.candidates[0].confidence,
        "ambiguous": float(found.ambiguous),
    }
    if importlib.util.find_spec("cv2"):
        row["GrabCut"] = iou(grabcut(case), whole)
    if found.ambiguous and len(case.objects) == 2:
        pairings = permutations(case.objects)
        shown = found.candidates[:2]
        row["both"] = max(
            statistics.mean(iou(one.mask, thing) for one, thing in zip(shown, things, strict=True))
            for things in pairings
        )
    return row


def grabcut(case: Case) -> np.ndarray:
    """What one writes in five minutes: the scribble is probably object, around it is probably
    background, and what is far away surely is."""
    import cv2

    pixels = np.ascontiguousarray((case.scene.movedim(0, -1) * 255).byte().numpy()[..., ::-1])
    ((left, top, right, bottom),) = masks.bounding_crop(torch.from_numpy(case.scribble)[None])
    labels = np.full(case.scribble.shape, cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_BGD
    labels[case.scribble] = cv2.GC_PR_FGD
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def speed() -> None:
    """Seconds for one scribble at 512 × 512 on one core, without the first, which imports."""
    torch.set_num_threads(1)
    case = next(annotated())
    scene = torch.nn.functional.interpolate(case.scene[None], (512, 512), mode="bilinear")[0]
    scribble = torch.from_numpy(case.scribble).float()[None, None]
    scribble = torch.nn.functional.interpolate(scribble, (512, 512))[0]
    times = []
    for _ in range(11):
        began = time.process_time()
        resolve(scene[None], scribble)
        times.append(time.process_time() - began)
    print(f"\none scribble at 512 × 512: {statistics.median(times[1:]):.2f} s of one core (bar 1)")


def fit_all(num_cut_outs: int) -> None:
    """Prints PRIOR, BELIEF and CONFIDENCE; each is fitted with those before it in place."""
    rng = np.random.default_rng(0)
    windows, scribbles, truths = [], [], []
    for case in islice(cut_outs("development"), num_cut_outs):
        window, scribble = Window.around(case.scene, torch.from_numpy(case.scribble).float())
        windows.append(window)
        scribbles.append(scribble)
        truths.append(window.look(torch.from_numpy(case.objects[0]).float()))

    drawn, known, weights = [], [], []
    for scribble, truth in zip(scribbles, truths, strict=True):
        some = rng.integers(truth.size, size=PIXELS)
        drawn.append({n: f.ravel()[some] for n, f in prior.prior_features(scribble).items()})
        known.append(truth.ravel()[some])
        weights.append(np.full(PIXELS, 1 / (truth.mean() + 0.02) / PIXELS))
    learn(prior.PRIOR, "PRIOR", drawn, known, weights)

    scenes, drawn, known, weights = [], [], [], []
    for window, scribble, truth in zip(windows, scribbles, truths, strict=True):
        pixels = superpixels(window.picture, classic.COUNT)
        scribbled, object_share = pixels.mean(scribble), pixels.mean(truth)
        likely = pixels.mean(prior.scribble_prior(scribble))
        scenes.append((pixels, scribbled, likely, object_share))
        drawn.append(classic.belief_features(pixels, likely, scribbled))
        known.append(object_share)
        weights.append(pixels.area / max(1, (pixels.area * object_share).sum()))
    learn(classic.BELIEF, "BELIEF", drawn, known, weights)

    features = drawn
    drawn, known, weights = [], [], []
    for (pixels, scribbled, likely, object_share), found in zip(scenes, features, strict=True):
        belief = probability(classic.BELIEF, found)
        regions = classic.propose(pixels, merge(pixels), belief, scribbled)
        drawn.append(classic.confidence_features(pixels, regions, likely, belief, scribbled))
        known.append(classic.expected_iou(regions, object_share, pixels.area))
        weights.append(np.full(len(regions), 1 / len(regions)))
    learn(classic.CONFIDENCE, "CONFIDENCE", drawn, known, weights)

    evidence = []
    for scribble, (pixels, *_) in zip(scribbles, scenes, strict=True):
        hierarchy = merge(pixels)
        parts = [classic.judge(pixels, hierarchy, part) for part in halves(scribble) if part.any()]
        if len(parts) == 2:
            whole = classic.judge(pixels, hierarchy, scribble)
            evidence.append(classic.parted(pixels, whole, *parts))
    print(f"TWO_THINGS = {np.quantile(evidence, 1 - ONE_THING):.2f}")


def learn(
    coefficients: dict[str, float],
    name: str,
    features: Sequence[Mapping[str, np.ndarray]],
    targets: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
) -> None:
    """Fits coefficients by name, in place, and prints them."""
    columns = {key: np.concatenate([one[key] for one in features]) for key in features[0]}
    target, weight = np.concatenate(targets), np.concatenate(weights)
    coefficients.clear()
    coefficients.update(logistic_regression(columns, target, weight))
    print(f"{name} = {coefficients}", flush=True)


def logistic_regression(
    columns: Mapping[str, np.ndarray], target: np.ndarray, weight: np.ndarray, ridge: float = 0.1
) -> dict[str, float]:
    """columns and target (probabilities) (M,), by Newton's method on standardised columns."""
    values = np.stack([*columns.values(), np.ones_like(target)], 1)
    mean, scale = values.mean(0), values.std(0)
    mean[-1], scale[-1] = 0, 1
    standard = (values - mean) / np.maximum(scale, 1e-6)
    solution = np.zeros(values.shape[1])
    for _ in range(30):
        guess = 1 / (1 + np.exp(-standard @ solution))
        gradient = standard.T @ (weight * (guess - target)) + ridge * solution
        curvature = (standard * (weight * guess * (1 - guess))[:, None]).T @ standard
        solution -= np.linalg.solve(curvature + ridge * np.eye(len(solution)), gradient)
    solution /= np.maximum(scale, 1e-6)
    solution[-1] -= (solution * mean)[:-1].sum()
    return {name: round(float(c), 3) for name, c in zip([*columns, "bias"], solution, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("table", "fit"), default="table")
    parser.add_argument("--cut-outs", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.what == "fit":
        fit_all(360 if arguments.cut_outs is None else arguments.cut_outs)
    else:
        table(180 if arguments.cut_outs is None else arguments.cut_outs)
        speed()


if __name__ == "__main__":
    main()
