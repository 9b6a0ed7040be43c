"""From a scribble to the whole objects that it may mean, without any weights: superpixels, what
colours and textures the scribble covers, and where contours close.

N superpixels, K regions, h × w the window's size in pixels

Two logistic regressions of a few numbers each judge superpixels and regions. As the one in prior.py
they were fitted by `python -m tools.resolve fit`, on scribbles whose objects are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..packages import needed
from .candidates import Candidate, Resolution, distinct, halves
from .prior import log_odds, probability, scribble_prior
from .superpixels import Superpixels, merge, superpixels
from .window import Window

COUNT = 500  # superpixels
LEVELS = (0.15, 0.3, 0.45, 0.6, 0.75)  # of the highest belief
WEAK = 0.7  # of the picture's median contrast: where a contour has a gap
TWO_THINGS = 0.48  # of `parted`: what 1 in 20 scribbles on one thing reach, in development

BELIEF: dict[str, float] = {
    "prior": -0.05,
    "look-alikes": 0.961,
    "neighbours": 1.391,
    "way from background": 2.005,
    "bias": 1.629,
}
CONFIDENCE: dict[str, float] = {
    "belief": 3.358,
    "consensus": 2.005,
    "gaps": -0.835,
    "size": 0.05,
    "size squared": -0.059,
    "roughness": -0.185,
    "filled": 1.006,
    "filled squared": -1.362,
    "cut off": -1.228,
    "bias": -1.929,
}


@needed("scikit-image")
def resolve(scene: Tensor, mask: Tensor, look: Callable[[], None] = lambda: None) -> Resolution:
    """scene (3, H, W) and mask (H, W) in 0..1, the mask not empty → what it may mean

    ``look()``: called between the steps; what it raises ends the work.
    """
    window, scribble = Window.around(scene, mask)
    look()
    pixels = superpixels(window.picture, COUNT)
    look()
    hierarchy = merge(pixels)
    look()
    whole = judge(pixels, hierarchy, scribble)
    look()
    regions, confidence = whole.regions, whole.confidence
    order = np.argsort(-confidence).tolist()
    things = two_things(pixels, hierarchy, scribble, whole)
    for region, sure in things:
        order = [len(regions), *order]
        regions = np.concatenate([regions, region[None]])
        confidence = np.append(confidence, sure)
    kept = distinct(regions, pixels.area, order)
    found = window.refine(regions[kept][:, pixels.labels])
    candidates = tuple(
        Candidate(window.paste(part, *scene.shape[1:]), float(confidence[index]))
        for index, part in zip(kept, found, strict=True)
    )
    both_kept = kept[:2] == order[:2]  # not so if the two things are nearly one
    return Resolution(candidates, ambiguous=bool(things) and both_kept)


@dataclass(frozen=True)
class Judgement:
    """What a scribble says: of each superpixel the share that is scribbled on and the belief that
    the object has it (N,), and of regions (K, N) bool the confidence that they are the object (K,).
    """

    scribbled: np.ndarray
    belief: np.ndarray
    regions: np.ndarray
    confidence: np.ndarray

    @property
    def best(self) -> np.ndarray:
        return self.regions[self.confidence.argmax()]


def judge(pixels: Superpixels, hierarchy: np.ndarray, scribble: np.ndarray) -> Judgement:
    """hierarchy: of `merge` · scribble (h, w) bool, not empty"""
    scribbled = pixels.mean(scribble)
    prior = pixels.mean(scribble_prior(scribble))
    belief = probability(BELIEF, belief_features(pixels, prior, scribbled))
    regions = propose(pixels, hierarchy, belief, scribbled)
    features = confidence_features(pixels, regions, prior, belief, scribbled)
    return Judgement(scribbled, belief, regions, probability(CONFIDENCE, features))


def two_things(
    pixels: Superpixels, hierarchy: np.ndarray, scribble: np.ndarray, whole: Judgement
) -> list[tuple[np.ndarray, float]]:
    """The region (N,) and confidence of each of two things, the surer last, or nothing."""
    parts = [judge(pixels, hierarchy, part) for part in halves(scribble) if part.any()]
    if len(parts) < 2 or parted(pixels, whole, *parts) < TWO_THINGS:
        return []
    things = [(one.best, float(one.confidence.max())) for one in parts]
    return sorted(things, key=lambda thing: thing[1])


def parted(pixels: Superpixels, whole: Judgement, first: Judgement, second: Judgement) -> float:
    """How much a scribble and its halves look like two things, from 0 to 1: how far it lies on an
    object at all, and each half on one that lacks the other half.
    """

    def share(scribbled: np.ndarray, part: np.ndarray) -> float:
        weight = scribbled * pixels.area
        return float((weight * part).sum() / weight.sum())

    shared = max(share(first.scribbled, second.best), share(second.scribbled, first.best))
    return share(whole.scribbled, whole.belief) * (1 - shared)


def belief_features(
    pixels: Superpixels, prior: np.ndarray, scribbled: np.ndarray
) -> dict[str, np.ndarray]:
    """What speaks for a superpixel belonging to the object, each (N,).

    prior (N,): what the scribble alone says · scribbled (N,): the share that is scribbled on.
    """
    radius = np.sqrt((prior * pixels.area).sum() / np.pi)  # of a disc as large as the object
    color = _squared_distances(pixels.color)
    hue = _squared_distances(pixels.color * (0.5, 1, 1))  # shading makes no other material
    texture = _squared_distances(pixels.texture)
    place = _squared_distances(pixels.position) / radius**2
    alike = hue / 6**2 + texture / 5**2
    near = color / 10**2 + texture / 10**2 + place
    background = (pixels.border > 0) & (scribbled < 0.05)
    return {
        "prior": log_odds(prior),
        "look-alikes": log_odds(_mean_of_others(prior, alike, pixels.area)),
        "neighbours": log_odds(_mean_of_others(prior, near, pixels.area)),
        "way from background": _way(pixels, background),
    }


def _squared_distances(values: np.ndarray) -> np.ndarray:
    """values (N, C) → (N, N)"""
    square = (values**2).sum(1)
    return np.maximum(square[:, None] + square - 2 * values @ values.T, 0)


def _mean_of_others(values: np.ndarray, distance: np.ndarray, area: np.ndarray) -> np.ndarray:
    """values (N,) averaged with Gaussian weights; distance (N, N) squared, in σ²."""
    weight = np.exp(-distance / 2) * area
    np.fill_diagonal(weight, 0)
    return (weight @ values) / (weight.sum(1) + 1e-9)


def _way(pixels: Superpixels, background: np.ndarray) -> np.ndarray:
    """How much lies between each superpixel and the background (N,), from 0 to 2."""
    if not background.any():
        return np.ones(pixels.count)
    return np.minimum(pixels.paths_from(background), 20) / 10


def propose(
    pixels: Superpixels, hierarchy: np.ndarray, belief: np.ndarray, scribbled: np.ndarray
) -> np.ndarray:
    """Regions that could be the object (K, N) bool: where belief is high, the connected parts of
    that, and regions of the hierarchy or two of them together that agree with it best."""
    levels = [level * belief.max() for level in LEVELS]
    sets = [belief >= level for level in (*levels, best_level(belief, pixels.area))]
    found = list(sets)
    for chosen in sets:
        part = pixels.components(chosen)
        mass = np.bincount(part, (scribbled + 0.01) * pixels.area * chosen)
        main = part == mass.argmax()
        large = chosen & (mass >= 0.15 * mass.max())[part]
        found += [main, pixels.filled(main), large, pixels.filled(large)]
    best = _best(hierarchy, belief, pixels.area, 25)
    found += list(best)
    for region in best[:6]:
        found += list(_best(hierarchy | region, belief, pixels.area, 6))
    return np.unique(np.stack(found), axis=0)


def _best(regions: np.ndarray, belief: np.ndarray, area: np.ndarray, most: int) -> np.ndarray:
    return regions[np.argsort(-expected_iou(regions, belief, area))[:most]]


def expected_iou(regions: np.ndarray, belief: np.ndarray, area: np.ndarray) -> np.ndarray:
    """regions (K, N) → about the IoU (K,) with an object that has each superpixel with `belief`"""
    common = regions @ (belief * area)
    return common / (regions @ area + (belief * area).sum() - common)


def best_level(belief: np.ndarray, area: np.ndarray) -> float:
    """The level above which the set has the largest expected IoU."""
    order = np.argsort(-belief)
    common = np.cumsum((belief * area)[order])
    iou = common / (np.cumsum(area[order]) + common[-1] - common)
    return float(belief[order[iou.argmax()]])


def confidence_features(
    pixels: Superpixels,
    regions: np.ndarray,
    prior: np.ndarray,
    belief: np.ndarray,
    scribbled: np.ndarray,
) -> dict[str, np.ndarray]:
    """What speaks for a region (K, N) being the object, each (K,)"""
    area = regions @ pixels.area
    size = np.log(area / (prior * pixels.area).sum())
    filled = regions @ (scribbled * pixels.area) / area
    crossed = regions[:, pixels.pairs[:, 0]] != regions[:, pixels.pairs[:, 1]]
    contour = crossed @ pixels.length + 1e-6
    cut_off = regions @ pixels.border
    common = (regions * pixels.area) @ regions.T.astype(float)
    return {
        "belief": expected_iou(regions, belief, pixels.area),
        "consensus": (common / (area[:, None] + area - common)).mean(1),
        "gaps": crossed @ (pixels.length * (pixels.contrast < WEAK)) / contour,
        "size": size,
        "size squared": size**2,
        "roughness": np.log((contour + cut_off) ** 2 / (4 * np.pi * area)),
        "filled": filled,
        "filled squared": filled**2,
        "cut off": cut_off / (contour + cut_off),
    }
