import sys

import numpy as np
import pytest

from flexedit.errors import FlexEditError
from studies.ablation.tables import RECIPE
from studies.cases import first_of_each
from studies.figures import SMOOTHED, curves, draw, same_cases, smoothed
from studies.logs import Log, read_pictures, write_pictures


def curve_of(variant: str, seed: int, errors: list[float]) -> Log:
    curve = tuple({"step": 20.0 * n, "diffusion": error} for n, error in enumerate(errors, 1))
    return Log({"variant": variant, "seed": seed}, curve, ())


def lines(panel) -> dict[str, np.ndarray]:
    named = [line for line in panel.lines if not line.get_label().startswith("_")]
    return {line.get_label(): line.get_ydata() for line in named}


def test_a_point_of_a_curve_is_the_mean_of_the_last_values_of_all_seeds():
    seeds = [{step: float(step) for step in range(30)}, {step: 0.0 for step in range(25)}]
    steps, means = smoothed(seeds)
    assert steps == list(range(SMOOTHED - 1, 25))
    assert means[0] == pytest.approx(np.arange(SMOOTHED).mean() / 2)
    assert smoothed([{20: 3.0}, {20: 5.0}])[1].tolist() == [4.0]


def test_variants_are_compared_with_flexedit_of_the_same_seed_and_data():
    logs = [
        curve_of("full", 0, [1.0] * 12),
        curve_of("full", 1, [5.0] * 12),
        curve_of("no-ca", 1, [7.0] * 12),
        curve_of("full-masks", 0, [3.0] * 12),
        curve_of("no-dca", 2, [4.0] * 12),  # there is no FlexEdit of this seed
        curve_of("generate", 0, [1.0] * 12),
    ]
    errors, differences = curves(RECIPE, logs).axes
    shown = {label: set(values.round(9)) for label, values in lines(errors).items()}
    values = {"full": 3.0, "no-ca": 7.0, "full-masks": 3.0, "no-dca": 4.0}
    assert shown == {RECIPE.variants[name].title: {value} for name, value in values.items()}
    (difference,) = lines(differences).items()
    assert difference[0] == RECIPE.variants["no-ca"].title and set(difference[1].round(9)) == {2.0}


def test_the_same_cases_stand_in_a_row(tiny_benchmark):
    shown = first_of_each(tiny_benchmark)
    results = {
        "perfect": [tiny_benchmark.picture(case, "truth") for case in shown],
        "useless": [tiny_benchmark.picture(case, "scene") for case in shown],
    }
    panels = [axes for axes in same_cases(tiny_benchmark, results).axes if axes.images]
    assert len(shown) == 5 and len(panels) == 4 * len(shown)
    for row, case in enumerate(shown):
        marked, truth, best, worst = (axes.images[0].get_array() for axes in panels[4 * row :][:4])
        assert (truth == tiny_benchmark.picture(case, "truth")).all() and (best == truth).all()
        assert (worst == tiny_benchmark.picture(case, "scene")).all()
        assert (marked != worst).any()
    below = [axes.texts[0].get_text().replace("\n", " ") for axes in panels[-4:]]
    assert below == ["scene", "truth", "perfect", "useless"]
    less = {"perfect": results["perfect"], "with a subject": results["useless"][-2:]}
    panels = [axes for axes in same_cases(tiny_benchmark, less).axes if axes.images]
    assert len(panels) == 8
    for row, case in enumerate(shown[-2:]):
        _, truth, best, worst = (axes.images[0].get_array() for axes in panels[4 * row :][:4])
        assert (truth == tiny_benchmark.picture(case, "truth")).all() and (best == truth).all()
        assert (worst == tiny_benchmark.picture(case, "scene")).all()


def test_what_was_run_with_subjects_alone_stands_beside_those_cases(tiny_benchmark):
    shown = [case for case in first_of_each(tiny_benchmark) if case.subject]
    results = {"λ = 0": [tiny_benchmark.picture(case, "subject") for case in shown]}
    panels = [axes for axes in same_cases(tiny_benchmark, results).axes if axes.images]
    truths = [panels[row].images[0].get_array() for row in range(1, len(panels), 3)]
    assert len(shown) == 2
    for truth, case in zip(truths, shown, strict=True):
        assert (truth == tiny_benchmark.picture(case, "truth")).all()


def test_kept_pictures_are_read_back_and_failed_cases_are_grey(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    write_pictures(tmp_path, "full-0", [picture, None])
    first, second = read_pictures(tmp_path, "full-0")
    assert (first == picture).all() and (second == 128).all() and second.shape == (4, 4, 3)


def test_an_ablation_without_pictures_has_curves_only(tmp_path):
    curve_of("full", 1, [1.0, 0.5]).write(tmp_path / "logs" / "full-1.jsonl")
    draw(RECIPE, tmp_path / "logs", tmp_path / "out")
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"full-1.jsonl", "curves.png"}


def test_figures_say_that_they_need_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FlexEditError, match="pip install matplotlib"):
        curves(RECIPE, [])
