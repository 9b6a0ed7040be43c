from studies.ablation.logs import Log
from studies.ablation.tables import tables

KNOWN = {
    "form": "free", "group": "multi", "operation": "add", "kind": "circle",
    "subject_setting": "simple", "status": "ok", "label_right": None, "iou": None,
    "scribble_iou": None, "psnr": None, "fg_psnr": None, "bg_psnr": None, "bg_ssim": None,
}  # fmt: skip


def log(variant: str, seed: int, success: float) -> Log:
    rows = tuple({**KNOWN, "case": str(number), "success": success} for number in range(6))
    return Log({"variant": variant, "seed": seed}, (), rows)


def strengths(*logs: Log) -> dict:
    """Success and its difference by the name of a row, of the table of λ if there is one."""
    found = {table.key: table for table in tables(logs)}
    rows = found["strength"].rows if "strength" in found else ()
    cells = {row.name: (row.cells["success"], row.cells.get("difference")) for row in rows}
    return {name: tuple(one and one.mean for one in both) for name, both in cells.items()}


def test_strengths_are_compared_over_equal_seeds():
    logs = [log("full", 0, 0.5), log("full-strength-0.5", 0, 0.25), log("full-strength-2", 0, 0.5)]
    expected = {"λ = 0.5": (0.25, -0.25), "λ = 1": (0.5, None), "λ = 2": (0.5, 0)}
    assert strengths(*logs) == expected
    assert strengths(*logs, log("full", 1, 1.0)) == expected
    assert strengths(*logs, log("full", 1, 1.0), log("full-strength-2", 1, 0.0)) == expected


def test_strengths_without_a_seed_in_common_are_not_compared():
    assert strengths(log("full", 1, 1.0), log("full-strength-2", 0, 0.5)) == {}
