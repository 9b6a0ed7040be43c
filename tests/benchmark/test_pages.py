"""Both pages in a real Chromium, drawn on and clicked as a person would."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexedit.benchmark.cases import Benchmark
from flexedit.benchmark.editors import ReturnScene
from flexedit.benchmark.report import report
from flexedit.benchmark.review import ReviewServer
from flexedit.benchmark.run import run
from flexedit.benchmark.tables import METRICS
from tools.comfyui.editor import new_page


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser; the test fails if a script of it does."""
    errors: list[str] = []
    page = new_page(browser, viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


def test_a_mask_is_redrawn_and_moved_with_the_mouse_and_saved(page, tiny_benchmark, tmp_path):
    from playwright.sync_api import expect

    folder = shutil.copytree(tiny_benchmark.folder, tmp_path / "benchmark")
    with ReviewServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        page.goto(server.url)
        canvas = page.locator("#mask.ready")
        expect(canvas).to_have_js_property("width", 64)
        given = "it => it.getContext('2d').getImageData(0, 0, 64, 64).data.join()"
        mask = canvas.evaluate(given)
        page.click("#clear")
        page.click("#save")
        expect(page.locator("[role=status]")).to_contain_text("Paint what you mean")
        page.click("#undo")  # the drawing is still there
        assert canvas.evaluate(given) == mask
        page.keyboard.press("Meta+x")
        page.focus("[name=tool]")
        page.keyboard.press("ArrowRight")  # chooses a tool, as "v" and "e" below do
        expect(page.locator("h1")).to_have_text(tiny_benchmark.cases[0].id)
        page.click("[value=brush]")
        box = canvas.bounding_box()
        scale = box["width"] / 64

        def stroke(start: tuple[int, int], end: tuple[int, int]) -> None:
            page.mouse.move(box["x"] + start[0] * scale, box["y"] + start[1] * scale)
            page.mouse.down()
            page.mouse.move(box["x"] + end[0] * scale, box["y"] + end[1] * scale, steps=5)
            page.mouse.up()

        page.click("#clear")
        stroke((10, 20), (50, 20))
        stroke((10, 50), (50, 50))
        page.keyboard.press("Z")  # undoes the second
        page.keyboard.press("e")
        stroke((30, 0), (30, 40))  # erases a gap
        page.keyboard.press("v")
        stroke((5, 5), (5, 15))  # moves all of it down
        page.keyboard.press("s")
        expect(page.locator("#review")).to_have_text("redrawn")
        expect(canvas).to_have_js_property("width", 64)
        seen = canvas.evaluate("it => [...it.getContext('2d').getImageData(0, 0, 64, 64).data]")
        page.keyboard.press("x")
        expect(page.locator("h1")).to_have_text(tiny_benchmark.cases[1].id)
        server.shutdown()
    shown = np.array(seen).reshape(64, 64, 4)[..., 3] > 0
    benchmark = Benchmark(folder)
    assert benchmark.cases[0].review == "rejected"
    mask = benchmark.picture(benchmark.cases[0], "mask")
    assert np.array_equal(shown, mask)
    assert mask[30, 10:26].all() and mask[30, 34:50].all()
    assert not mask[:, 29:31].any() and not mask[40:].any() and not mask[:20].any()


def test_the_worst_cases_come_first_on_demand(page, tiny_benchmark, tmp_path: Path):
    scene = run(tiny_benchmark, ReturnScene(), tmp_path, forms=["free"], progress=False)
    psnrs = dict(
        zip((case.id for case in tiny_benchmark.cases), (30, 10, 50, None, 20), strict=True)
    )
    rows = [
        {"system": "scene", "case": case.id, "form": "free", "status": "ok", "group": case.group}
        | {"operation": case.operation, "kind": case.kind}
        | dict.fromkeys((*METRICS, "extent"))
        | {"psnr": psnrs[case.id], "lpips": psnrs[case.id]}
        for case in tiny_benchmark.cases
    ]
    report(tiny_benchmark, rows, {}, [scene.system], tmp_path / "out", [scene], {})
    page.goto((tmp_path / "out" / "report.html").as_uri())

    def order() -> list[str]:
        return page.eval_on_selector_all("article", "all => all.map((one) => one.dataset.case)")

    by_case = list(psnrs)
    assert order() == by_case
    page.select_option("select[name=order]", "psnr")
    assert order() == [by_case[index] for index in (1, 4, 0, 2, 3)]
    assert "Whole image PSNR: 10.000" in page.inner_text("article")
    page.select_option("select[name=order]", "lpips")
    assert order() == [by_case[index] for index in (2, 0, 4, 1, 3)]
    page.select_option("select[name=order]", "")
    assert order() == by_case

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # a phone's
