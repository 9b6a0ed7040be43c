import pytest

from flexedit.benchmark.report import as_markdown
from studies.ablation.tables import RECIPE, tables
from studies.logs import Log
from studies.tables import minutes


def by_key(*logs: Log) -> dict:
    return {table.key: table for table in tables(logs)}


def strengths(*logs: Log) -> dict:
    """Success and its difference by the name of a row, of the table of λ if there is one."""
    made = by_key(*logs)
    rows = made["strength"].rows if "strength" in made else ()
    cells = {row.name: (row.cells["success"], row.cells.get("difference")) for row in rows}
    return {name: tuple(cell and cell.mean for cell in both) for name, both in cells.items()}


def test_strengths_are_compared_over_equal_seeds(log):
    def of(variant: str, seed: int, success: float) -> Log:
        return log(variant, seed, *[success] * 6)

    logs = [of("full", 0, 0.5), of("full-strength-0.5", 0, 0.25), of("full-strength-2", 0, 0.5)]
    expected = {"λ = 0.5": (0.25, -0.25), "λ = 1": (0.5, None), "λ = 2": (0.5, 0)}
    assert strengths(*logs) == expected
    assert strengths(*logs, of("full", 1, 1.0)) == expected
    assert strengths(*logs, of("full", 1, 1.0), of("full-strength-2", 1, 0.0)) == expected
    assert strengths(of("full", 1, 1.0), of("full-strength-2", 0, 0.5)) == {}


def test_differences_are_between_equal_seeds(log):
    made = by_key(log("full", 0, 1, 1), log("full", 1, 0, 0), log("no-ca", 0, 1, 1))
    assert made["differences"].rows[0].cells["multi success"].mean == 0


def test_seeds_are_averaged_before_cases_are_resampled(log):
    made = by_key(
        log("full", 0, 1, 1), log("full", 1, 1, 0), log("no-ca", 0, 0, 0), log("no-ca", 1, 1, 0)
    )
    cells = {row.name: row.cells["success"] for row in made["multi"].rows if not row.is_reference}
    full, without = (RECIPE.variants[name].title for name in ("full", "no-ca"))
    assert cells[full].mean == 0.75 and cells[full].count == 2
    (difference,) = made["differences"].rows
    assert difference.name == without
    assert difference.cells["multi success"].mean == pytest.approx(-0.5)
    assert "single" not in made
    assert as_markdown("Ablation", list(made.values()))


def test_minutes_are_those_of_training_and_not_of_pauses():
    seconds = [0, 15, 25, 3600, 3620]  # with steps 10 to 50: a second each, slower, and a pause
    curve = tuple({"step": 10 * k, "seconds": value} for k, value in enumerate(seconds, 1))
    assert minutes([Log({"threads": 2}, curve, ())]) == "2"
    assert minutes([Log({}, curve, ())]) == minutes([Log({"threads": 2}, (), ())]) == ""
