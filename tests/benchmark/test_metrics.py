import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from flexedit.benchmark.cases import FORMS, Benchmark, Case
from flexedit.benchmark.editors import Answer, Editor, Finished, ReturnScene, Truth
from flexedit.benchmark.encoders import Encoders
from flexedit.benchmark.judge import Judge
from flexedit.benchmark.metrics import (
    BEST_PSNR,
    MASK_METRICS,
    PICTURE_METRICS,
    SSIM_WINDOW,
    LoadedCase,
    extent,
    iou,
    picture_metrics,
    psnr,
    region_crop,
    score,
    ssim,
    success,
)
from flexedit.benchmark.run import Run, run
from flexedit.errors import FlexEditError
from flexedit.prompts import BACKGROUND
from tests.benchmark.tiny_encoders import make_encoders, turned

ENCODED = {"lpips", "bg_lpips", "clip_i", "fg_clip_i", "fg_clip_t", "dino", "fg_dino"}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    return ndimage.gaussian_filter(noise(height, width, seed), (2, 2, 0)) * 3


def window(height: int, width: int, where: tuple) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[where] = True
    return mask


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return make_encoders(tmp_path_factory.mktemp("encoders"))


# Against outside implementations


@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_psnr_is_scikit_images(size):
    a, b = noise(*size), smooth(*size, seed=1)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-5)
    mask = window(*size, np.s_[5:30, 11:])
    theirs = peak_signal_noise_ratio(b[mask], a[mask], data_range=255)
    assert psnr(a, b, mask) == pytest.approx(theirs, abs=1e-5)
    assert psnr(a, b, ~mask) != pytest.approx(theirs, abs=0.01)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """scikit-image's map (H, W, 3), with the borders mirrored as torchmetrics mirrors them."""
    margin = SSIM_WINDOW
    padded = [np.pad(x / 255, [(margin,) * 2, (margin,) * 2, (0, 0)], "reflect") for x in (a, b)]
    _, full = structural_similarity(
        *padded,
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return full[margin:-margin, margin:-margin]


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (12, 12)])
def test_ssim_is_scikit_images(size):
    a = smooth(*size)
    b = np.clip(a + np.random.default_rng(1).normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    theirs = reference_ssim(a, b)
    assert ssim(a, b) == pytest.approx(theirs.mean(), abs=1e-5)
    mask = window(*size, np.s_[2:9, 3:])
    assert ssim(a, b, mask) == pytest.approx(theirs[mask].mean(), abs=1e-5)
    assert theirs.mean() < 0.95


def test_iou_counts_pixels():
    a, b = window(8, 8, np.s_[:4]), window(8, 8, np.s_[2:6])
    assert iou(a, b) == 2 / 6
    assert iou(a, a) == 1 and iou(a, ~a) == 0
    assert iou(a & ~a, a & ~a) is None


# Regions


def loaded(truth: np.ndarray, region: np.ndarray, **changes: object) -> LoadedCase:
    fields = dict.fromkeys((field.name for field in dataclasses.fields(Case)), "")
    fields |= {
        "id": "one",
        "group": "single",
        "operation": "add",
        "kind": "circle",
        "orientation": 0.0,
        "setting": "none",
    }
    fields |= {"subject": None, "caption": "a turtle", "source": "world", "review": "open"}
    fields |= {"label": "dog", "result_label": BACKGROUND, **changes}
    case = Case(**fields)  # type: ignore[arg-type]
    return LoadedCase(case, truth, truth, region, {form: region for form in FORMS})


@st.composite
def outputs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An output, its truth (maybe the same) and a region that may be anything."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    picture = arrays.arrays(np.uint8, (*shape, 3))
    truth = draw(picture)
    output = draw(st.one_of(st.just(truth), picture))
    y, x = (draw(st.integers(0, side - 1)) for side in shape)
    form = draw(st.sampled_from(["empty", "all", "pixel", "row", "column", "any"]))
    if form == "any":
        return output, truth, draw(arrays.arrays(bool, shape))
    windows = {
        "empty": np.s_[:0],
        "all": np.s_[:],
        "pixel": (y, x),
        "row": y,
        "column": np.s_[:, x],
    }
    return output, truth, window(*shape, windows[form])  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(outputs())
def test_metrics_are_finite_or_none_and_none_only_where_undefined(drawn):
    output, truth, region = drawn
    found = picture_metrics(loaded(truth, region), output, Encoders())
    undefined = set(ENCODED)
    undefined |= set() if region.any() else {"fg_psnr"}
    undefined |= {"bg_psnr", "bg_ssim"} if region.all() else set()
    undefined |= {"bg_ssim"} if min(region.shape) < SSIM_WINDOW else set()
    assert {key for key, value in found.items() if value is None} == undefined
    assert all(math.isfinite(value) for value in found.values() if value is not None)
    inside, outside = ((output[where] == truth[where]).all() for where in (region, ~region))
    assert (found["fg_psnr"] == BEST_PSNR) == bool(inside and region.any())
    assert (found["bg_psnr"] == BEST_PSNR) == bool(outside and not region.all())


@pytest.mark.parametrize(
    "where",
    [np.s_[:0], np.s_[:], np.s_[0, 0], np.s_[-1, -1], np.s_[20, 30], np.s_[:, 0], np.s_[-3:]],
    ids=["empty", "all", "corner", "other corner", "pixel", "left border", "bottom border"],
)
@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_encoders_see_any_region(encoders, size, where):
    truth, output, region = smooth(*size), smooth(*size, seed=1), window(*size, where)
    found = picture_metrics(loaded(truth, region), output, encoders)
    undefined = set()
    undefined |= set() if region.any() else {"fg_psnr", "fg_clip_i", "fg_clip_t", "fg_dino"}
    undefined |= {"bg_psnr", "bg_ssim", "bg_lpips"} if region.all() else set()
    assert {key for key, value in found.items() if value is None} == undefined
    assert all(math.isfinite(value) for value in found.values() if value is not None)
    perfect = picture_metrics(loaded(truth, region), truth, encoders)
    for key in ("clip_i", "dino", "fg_clip_i", "fg_dino"):
        assert perfect[key] is None or perfect[key] == pytest.approx(1, abs=1e-5)
    assert perfect["lpips"] == 0 and perfect["bg_lpips"] in (0, None)


def test_foreground_and_background_look_at_their_own_side_only(encoders):
    truth, region = smooth(64, 64), window(64, 64, np.s_[20:40, 24:44])
    spoilt = np.where(region[..., None], 255 - truth, truth)
    inside = picture_metrics(loaded(truth, region), spoilt, encoders)
    assert inside["bg_psnr"] == BEST_PSNR and inside["bg_lpips"] == 0
    assert inside["fg_psnr"] < 20 and inside["fg_clip_i"] < 0.999 and inside["lpips"] > 0
    outside = picture_metrics(loaded(truth, region), np.where(
        region[..., None], truth, 255 - truth), encoders)  # fmt: skip
    assert outside["fg_psnr"] == BEST_PSNR and outside["fg_dino"] == pytest.approx(1, abs=1e-5)
    assert outside["bg_psnr"] < 20 and outside["bg_ssim"] < 0.5 and outside["bg_lpips"] > 0


def test_the_crop_is_a_square_around_the_region_moved_inside_at_a_border():
    picture = noise(40, 90)
    assert np.array_equal(
        region_crop(picture, window(40, 90, np.s_[10:20, 30:50])), picture[5:25, 30:50]
    )
    assert np.array_equal(region_crop(picture, window(40, 90, (0, 89))), picture[:8, -8:])
    assert region_crop(picture, window(40, 90, np.s_[:, :])).shape == (40, 90, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_clip_t_is_a_hundred_cosines_and_never_below_zero(encoders, sign):
    """Of one of the signs they are below"""
    truth, region = smooth(64, 64), window(64, 64, np.s_[8:40, 8:40])
    clip = turned(encoders.clip, sign)
    cosine = float((clip.pictures([truth[8:40, 8:40]]) * clip.texts(["a turtle"])).sum())
    assert abs(cosine) > 0.01
    score = picture_metrics(loaded(truth, region), truth, Encoders(clip=clip))["fg_clip_t"]
    assert score == (pytest.approx(100 * cosine, abs=1e-4) if cosine > 0 else 0)


# Whole runs


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def scored(tiny_benchmark: Benchmark, encoders, judge, tmp_path_factory):
    """Each system's rows by (case, form), encoders and judge and all."""
    out = tmp_path_factory.mktemp("runs")
    shifted = tmp_path_factory.mktemp("shifted")
    for case in tiny_benchmark.kept:
        moved = np.roll(tiny_benchmark.picture(case, "truth"), (3, 3), (0, 1))
        Image.fromarray(moved).save(shifted / f"{case.id}.png")
    systems = [Truth(), ReturnScene(), Finished(shifted, name="shifted")]
    found = {}
    for system in systems:
        rows = score(
            tiny_benchmark, run(tiny_benchmark, system, out, progress=False), encoders, judge
        )
        found[system.name] = {(row["case"], row["form"]): row for row in rows}
    return found


def test_there_is_one_flat_row_for_each_case_and_form(tiny_benchmark, scored):
    rows = scored["truth"]
    assert set(rows) == {(case.id, form) for case in tiny_benchmark.kept for form in FORMS}
    row = rows["world-swap", "free"]
    assert list(row) == [
        "system", "case", "form", "group", "operation", "kind", "setting", "subject_setting",
        "extent", "status", *PICTURE_METRICS, *MASK_METRICS, "success", "seconds",
    ]  # fmt: skip
    assert (row["system"], row["group"], row["operation"]) == ("truth", "multi", "replace")
    assert row["status"] == "ok" and row["seconds"] >= 0
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_extent_of_a_region_is_its_longer_share_of_the_picture():
    region = np.zeros((20, 40), bool)
    assert extent(region) is None
    region[5:10, 8:16] = True
    assert extent(region) == 5 / 20
    region[7, 39] = True
    assert extent(region) == 32 / 40


def test_a_perfect_system_scores_perfectly(scored):
    best = {
        "psnr": BEST_PSNR, "fg_psnr": BEST_PSNR, "bg_psnr": BEST_PSNR, "bg_ssim": 1.0,
        "lpips": 0.0, "bg_lpips": 0.0, "clip_i": 1.0, "dino": 1.0, "fg_clip_i": 1.0, "fg_dino": 1.0,
        "success": 1.0,
    }  # fmt: skip
    for row in scored["truth"].values():
        assert {key: row[key] for key in best} == pytest.approx(best, abs=1e-5)
        if row["iou"] is not None:
            assert row["iou"] >= 0.95 and row["label_right"] == 1.0


def test_returning_the_scene_scores_what_scene_and_truth_say(tiny_benchmark, scored):
    for case in tiny_benchmark.kept:
        scene, truth, region = (
            tiny_benchmark.picture(case, name) for name in ("scene", "truth", "region")
        )
        row = scored["scene"][case.id, "free"]
        expected = {
            "psnr": peak_signal_noise_ratio(truth, scene, data_range=255),
            "fg_psnr": peak_signal_noise_ratio(truth[region], scene[region], data_range=255),
            "bg_psnr": BEST_PSNR,
            "bg_ssim": 1.0,
            "bg_lpips": 0.0,
            "success": 0.0,
            "iou": None,
            "label_right": None,
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-5)
        assert row["lpips"] > 0 and row["clip_i"] < 1 and row["fg_dino"] < 1


def test_a_shifted_picture_loses_everywhere(scored):
    for key, row in scored["shifted"].items():
        perfect = scored["truth"][key]
        for name in ("psnr", "fg_psnr", "bg_psnr", "bg_ssim", "clip_i", "dino", "fg_clip_i"):
            assert row[name] < perfect[name], name
        assert row["lpips"] > 0.001 and row["bg_lpips"] > 0.001


def test_the_scribbles_own_iou_is_that_of_the_mask_that_was_given(tiny_benchmark, scored):
    for case in tiny_benchmark.kept:
        free, full = (scored["scene"][case.id, form]["scribble_iou"] for form in FORMS)
        if case.label == BACKGROUND:
            assert free is full is None
        else:
            mask, whole = (tiny_benchmark.picture(case, n) for n in ("mask", "full_mask"))
            assert free == (mask & whole).sum() / (mask | whole).sum() < 0.9
            assert full == 1.0


def test_cases_without_an_object_have_no_mask_metrics(scored):
    for name in ("world-add", "world-insert"):
        row = scored["truth"][name, "free"]
        assert [row[key] for key in MASK_METRICS] == [None] * 3


class Half(Truth):
    """Paints only the left of what it should, and calls everything a dog."""

    def answer(self, work):
        answers = super().answer(work)
        if work.task == "edit":
            return answers
        scenes = [work.benchmark.picture(case, "scene") for case in work.cases]
        found = []
        for scene, answer in zip(scenes, answers, strict=True):
            columns = np.flatnonzero((scene != answer.picture).any((0, 2)))
            cut = int(columns.mean())
            picture = answer.picture.copy()
            picture[:, cut:] = scene[:, cut:]
            found.append(Answer(picture, "The masks means 'dog'", "dog"))
        return found


def test_half_a_painted_object_and_a_wrong_name_are_counted(tiny_benchmark, tmp_path):
    rows = score(
        tiny_benchmark,
        run(tiny_benchmark, Half("half"), tmp_path, progress=False),
        Encoders(),
        None,
    )
    labels = {case.id: case.label for case in tiny_benchmark.kept}
    meant = [row for row in rows if labels[row["case"]] != BACKGROUND]
    assert meant
    for row in meant:
        assert 0.3 < row["iou"] < 0.75
        assert row["label_right"] == float(labels[row["case"]] == "dog")


class Faulty(Truth):
    """Fails on what has a subject."""

    def answer(self, work):
        if any(case.id == "world-swap" for case in work.cases):
            raise RuntimeError("no")
        return super().answer(work)


def test_a_failed_case_counts_as_wrong(tiny_benchmark, judge, tmp_path):
    finished = run(tiny_benchmark, Faulty("faulty"), tmp_path, batch_size=1, progress=False)
    rows = {(r["case"], r["form"]): r for r in score(tiny_benchmark, finished, Encoders(), judge)}
    row = rows["world-swap", "free"]
    assert row["status"] == "failed"
    assert all(row[key] is None for key in PICTURE_METRICS)
    assert (row["success"], row["iou"], row["label_right"]) == (0.0, 0.0, 0.0)
    assert row["scribble_iou"] > 0
    assert rows["world-remove", "free"]["status"] == "ok"


class Mute(Faulty):
    """Paints nothing: all it is asked to paint fails."""

    def answer(self, work):
        if work.task == "segment":
            raise RuntimeError("no")
        return super().answer(work)


def test_a_system_whose_painting_all_fails_has_named_nothing_rightly(tiny_benchmark, tmp_path):
    finished = run(tiny_benchmark, Mute("mute"), tmp_path, progress=False)
    rows = {r["case"]: r for r in score(tiny_benchmark, finished, Encoders(), None)}
    row = rows["world-remove"]
    assert (row["status"], row["iou"], row["label_right"]) == ("ok", 0.0, 0.0)
    assert rows["world-add"]["label_right"] is None


class Talks(Editor):
    """Names what is meant beside the edit, but cannot paint."""

    def __init__(self, replies: bool) -> None:
        self.name, self.replies = "talks", replies

    def answer(self, work):
        scenes = [work.benchmark.picture(case, "scene") for case in work.cases]
        if not self.replies:
            return [Answer(scene) for scene in scenes]
        return [
            Answer(scene, "It is …", "" if case.id == "world-swap" else case.label)
            for scene, case in zip(scenes, work.cases, strict=True)
        ]


def test_labels_come_with_the_edit_of_a_system_that_cannot_paint(tiny_benchmark, tmp_path):
    def labels(replies: bool) -> dict[str, float | None]:
        done = run(tiny_benchmark, Talks(replies), tmp_path / str(replies), progress=False)
        return {
            row["case"]: row["label_right"]
            for row in score(tiny_benchmark, done, Encoders(), None)
            if row["form"] == "free"
        }

    spoken = labels(True)
    assert (spoken["world-remove"], spoken["world-swap"]) == (1.0, 0.0)
    assert set(labels(False).values()) == {None}


def test_without_encoders_and_judge_the_rest_is_measured(tiny_benchmark, tmp_path):
    done = run(tiny_benchmark, Truth(), tmp_path, forms=("free",), progress=False)
    rows = score(tiny_benchmark, done, Encoders(), None)
    assert [row["form"] for row in rows] == ["free"] * len(tiny_benchmark.kept)
    for row in rows:
        assert {key for key in PICTURE_METRICS if row[key] is None} == ENCODED
        assert row["success"] is None and row["psnr"] == BEST_PSNR


def test_the_judge_does_not_judge_what_it_does_not_know(judge):
    truth, region = smooth(64, 64), window(64, 64, np.s_[8:40, 8:40])
    assert success(loaded(truth, region), truth, judge) in (0.0, 1.0)
    assert success(loaded(truth, region, source="coco"), truth, judge) is None
    assert success(loaded(truth, region & False), truth, judge) is None
    assert success(loaded(truth, region), None, judge) == 0.0
    assert success(loaded(truth, region), truth, None) is None


def test_a_rejected_case_is_not_scored(tiny_benchmark, tmp_path):
    done = run(tiny_benchmark, ReturnScene(), tmp_path, progress=False)
    first, *others = tiny_benchmark.cases
    fewer = Benchmark(tiny_benchmark.folder)
    fewer.cases = (dataclasses.replace(first, review="rejected"), *others)
    assert {row["case"] for row in score(fewer, done, Encoders(), None)} == {
        case.id for case in others
    }


def test_an_unfinished_run_is_not_scored(tiny_benchmark, tmp_path):
    done = run(tiny_benchmark, Truth(), tmp_path, progress=False)
    lines = (done.folder / "results.jsonl").read_text().splitlines(keepends=True)
    for kept, match in ((lines[:-1], "has no segment of case"), ([], "no results yet")):
        (done.folder / "results.jsonl").write_text("".join(kept))
        with pytest.raises(FlexEditError, match=match):
            score(tiny_benchmark, Run(done.folder), Encoders(), None)


def test_the_forms_that_are_asked_for_are_scored(tiny_benchmark, tmp_path):
    """Also of a run that was interrupted in the other form."""
    done = run(tiny_benchmark, Truth(), tmp_path, progress=False)
    lines = (done.folder / "results.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"full"' not in line or '"world-remove"' in line]
    (done.folder / "results.jsonl").write_text("".join(kept))
    half = Run(done.folder)
    rows = score(tiny_benchmark, half, Encoders(), None, ("free", "free"))
    expected = [(case.id, "free") for case in tiny_benchmark.kept]
    assert [(row["case"], row["form"]) for row in rows] == expected
    with pytest.raises(FlexEditError, match="has no edit of case"):
        score(tiny_benchmark, half, Encoders(), None)


def test_an_output_of_another_size_is_an_error(tiny_benchmark, tmp_path):
    done = run(tiny_benchmark, ReturnScene(), tmp_path, progress=False)
    file: Path = done.folder / "edit-free" / "world-remove.png"
    Image.fromarray(noise(32, 32)).save(file)
    with pytest.raises(FlexEditError, match="is 32×32 pixels, its scene 64×64"):
        score(tiny_benchmark, Run(done.folder), Encoders(), None)


def test_what_nobody_has_named_is_neither_right_nor_wrong(tiny_benchmark, encoders, tmp_path):
    benchmark = Benchmark(shutil.copytree(tiny_benchmark.folder, tmp_path / "cases"))
    benchmark.rewrite(dataclasses.replace(case, label="", caption="") for case in benchmark.cases)
    done = run(benchmark, Truth(), tmp_path / "results", progress=False)
    rows = score(benchmark, done, encoders, None)
    assert {row["label_right"] for row in rows} == {row["fg_clip_t"] for row in rows} == {None}
    assert min(row["iou"] for row in rows) > 0.9
