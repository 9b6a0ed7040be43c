import sys

import numpy as np
import pytest

from flexedit.benchmark.ablation import TITLES, Log
from flexedit.benchmark.figures import SMOOTHED, curves, draw, first_of_each, same_cases, smoothed
from flexedit.benchmark.run import run
from flexedit.benchmark.systems import ReturnScene, Truth
from flexedit.errors import FlexEditError


def log(variant: str, seed: int, errors: list[float]) -> Log:
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
        log("full", 0, [1.0] * 12),
        log("full", 1, [5.0] * 12),
        log("no-ca", 1, [7.0] * 12),
        log("full-masks", 0, [3.0] * 12),
        log("no-dca", 2, [4.0] * 12),  # there is no FlexEdit of this seed
        log("generate", 0, [1.0] * 12),
    ]
    errors, differences = curves(logs).axes
    shown = {label: set(values.round(9)) for label, values in lines(errors).items()}
    values = {"full": 3.0, "no-ca": 7.0, "full-masks": 3.0, "no-dca": 4.0}
    assert shown == {TITLES[name]: {value} for name, value in values.items()}
    (difference,) = lines(differences).items()
    assert difference[0] == TITLES["no-ca"] and set(difference[1].round(9)) == {2.0}


def test_the_same_cases_stand_in_a_row(tiny_benchmark, tmp_path):
    runs = {
        name: run(tiny_benchmark, system, tmp_path, forms=("free",), progress=False)
        for name, system in (("full", Truth(name="a")), ("no-ca", ReturnScene(name="b")))
    }
    panels = [axes for axes in same_cases(tiny_benchmark, runs).axes if axes.images]
    cases = first_of_each(tiny_benchmark)
    assert len(cases) == 5 and len(panels) == 4 * len(cases)
    for row, case in enumerate(cases):
        marked, truth, best, worst = (axes.images[0].get_array() for axes in panels[4 * row :][:4])
        assert (truth == tiny_benchmark.picture(case, "truth")).all() and (best == truth).all()
        assert (worst == tiny_benchmark.picture(case, "scene")).all()
        assert (marked != worst).any()
    below = [axes.texts[0].get_text().replace("\n", " ") for axes in panels[-4:]]
    assert below == ["scene", "truth", TITLES["full"], TITLES["no-ca"]]


def test_an_unfinished_ablation_has_curves_only(tmp_path):
    log("full", 1, [1.0, 0.5]).write(tmp_path / "logs" / "full-1.jsonl")
    (tmp_path / "out" / "results" / "full-0").mkdir(parents=True)
    draw(tmp_path / "logs", tmp_path / "out")
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"full-1.jsonl", "curves.png"}


def test_figures_say_that_they_need_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FlexEditError, match="pip install matplotlib"):
        curves([])
