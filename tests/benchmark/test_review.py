import base64
import html
import io
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from flexedit.benchmark.cases import FILES, Benchmark, Case
from flexedit.benchmark.review import MAX_BODY, ReviewServer
from flexedit.errors import FlexEditError

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def benchmark(tiny_benchmark: Benchmark, tmp_path: Path) -> Benchmark:
    return Benchmark(shutil.copytree(tiny_benchmark.folder, tmp_path / "benchmark"))


@pytest.fixture
def server(benchmark: Benchmark) -> Iterator[ReviewServer]:
    with ReviewServer(benchmark.folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def ask(
    server: ReviewServer, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """GET, or POST with a body → status, answer"""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer


def decide(server: ReviewServer, case: Case, **decision: str) -> tuple[int, str]:
    status, answer = ask(server, f"/case/{case.id}", urlencode(decision), FORM)
    return status, html.unescape(answer.decode())


def png(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def kept(benchmark: Benchmark) -> tuple[Case, ...]:
    return Benchmark(benchmark.folder).cases


# Looking


def test_a_case_and_its_pictures_are_served_the_first_open_one_first(server, benchmark):
    decide(server, benchmark.cases[0], review="accepted")
    with urlopen(server.url, timeout=30) as response:
        assert response.url.endswith(f"/case/{benchmark.cases[1].id}")
        page = html.unescape(response.read().decode())
    assert benchmark.cases[1].instruction in page and "1 of 5 decided" in page
    case = benchmark.cases[3]
    assert case.subject is not None
    for name in FILES:
        status, answer = ask(server, f"/picture/{case.id}/{name}")
        assert (status, answer) == (200, (benchmark.folder / getattr(case, name)).read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "/cases.jsonl",
        "/case/nobody",
        "/picture/nobody/scene",
        "/picture/world-remove/subject",
        "/picture/world-remove/id",
        "/picture/world-remove/../../cases.jsonl",
        "/picture/..%2F..%2Fetc/scene",
        "/../review.py",
    ],
)
def test_nothing_else_can_be_had(server, path):
    assert ask(server, path)[0] in (400, 404)


def test_an_index_cannot_lead_out_of_its_folder(server, benchmark):
    secret = benchmark.folder.parent / "secret.png"
    Image.new("L", (64, 64), 255).save(secret)
    case = replace(benchmark.cases[0], mask="../secret.png")
    benchmark.rewrite([case, *benchmark.cases[1:]])
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{server.url}picture/{case.id}/mask", timeout=30)
    assert refused.value.code == 400
    assert refused.value.headers.get_content_type() == "text/plain"
    assert decide(server, case, mask=png(np.full((64, 64), 255, np.uint8)))[0] == 400
    assert set(benchmark.folder.parent.iterdir()) == {benchmark.folder, secret}


# Deciding


@pytest.mark.parametrize("review", ["accepted", "rejected", "open"])
def test_a_decision_is_kept_in_the_index_at_once(server, benchmark, review):
    first, case, *others = benchmark.cases
    assert decide(server, case, review=review, note="  half a cüp  ")[0] == 303
    changed = replace(case, review=review, note="half a cüp")
    assert kept(benchmark) == (first, changed, *others)
    decide(server, case, note="a note\r\nalone")
    assert kept(benchmark)[1] == replace(changed, note="a note\nalone")


def test_decisions_sent_together_are_all_kept(server, benchmark):
    threads = [
        threading.Thread(target=decide, args=(server, case), kwargs={"review": "accepted"})
        for case in benchmark.cases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {case.review for case in kept(benchmark)} == {"accepted"}


def test_a_redrawn_mask_is_a_new_file_and_the_old_one_stays(server, benchmark):
    case = benchmark.cases[2]
    old = benchmark.picture(case, "mask")
    mask = np.zeros_like(old)
    mask[5:20, 3:9] = True
    assert decide(server, case, mask=png(mask.astype(np.uint8) * 255))[0] == 303
    changed = kept(benchmark)[2]
    assert changed == replace(case, review="redrawn", mask="mask/world-add.redrawn1.png")
    assert np.array_equal(benchmark.picture(changed, "mask"), mask)
    assert np.array_equal(benchmark.picture(case, "mask"), old)
    decide(server, case, mask=png(~mask))
    assert kept(benchmark)[2].mask == "mask/world-add.redrawn2.png"


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"review": "splendid"}, "review is 'splendid'"),
        ({"review": "redrawn"}, "review is 'redrawn'"),  # that comes with a mask
        ({"note": "n" * 2001}, "2000"),
        ({"mask": "data:image/png;base64,ÄÄÄÄ"}, "cannot be read"),
        ({"mask": "data:image/png;base64,AAAA"}, "cannot be read"),
        ({"mask": png(np.zeros((32, 64), np.uint8))}, "64×32 pixels; this scene needs 64×64"),
        ({"mask": png(np.full((64, 64), 255, np.uint8))[:98]}, "cannot be read"),
        ({"mask": png(np.zeros((64, 64), np.uint8))}, "is empty"),
        ({"review": "accepted", "mask": "nonsense"}, "cannot be read"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(server, benchmark, decision, says):
    status, page = decide(server, benchmark.cases[0], **decision)
    assert status == 400 and says in page
    assert kept(benchmark) == benchmark.cases
    assert len(list((benchmark.folder / "mask").iterdir())) == len(benchmark.cases)


# Strangers


def test_other_websites_can_neither_read_nor_post(server, benchmark):
    case, accept = f"/case/{benchmark.cases[0].id}", "review=accepted"
    for stranger in (
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{server.server_port + 1}"},
        {"Host": f"example.org:{server.server_port}"},
    ):
        assert ask(server, case, accept, FORM | stranger)[0] in (400, 403)
        assert ask(server, case, headers=stranger)[0] in (400, 403)
    assert ask(server, case, accept, FORM | {"Content-Length": str(MAX_BODY + 1)})[0] == 413
    assert kept(benchmark) == benchmark.cases
    own = {"Origin": f"http://127.0.0.1:{server.server_port}"}
    assert ask(server, case, accept, FORM | own)[0] == 303


def test_only_this_machine_can_reach_it(server):
    assert server.server_address[0] == "127.0.0.1"


# Starting and stopping


def test_what_it_cannot_serve_is_told_at_once(server, benchmark, tmp_path):
    with pytest.raises(FlexEditError, match="is not a benchmark"):
        ReviewServer(tmp_path)
    for port in (-1, 70_000, server.server_port):
        with pytest.raises(FlexEditError, match=f"Port {port} cannot be used"):
            ReviewServer(benchmark.folder, port)


def test_ctrl_c_stops_it_and_the_counts_are_told(benchmark):
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's job may ignore it
        "from flexedit.benchmark.review import review\n"
        f"print(review({str(benchmark.folder)!r}, open_browser=False))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # warnings of libraries may come first
        if "http://127.0.0.1:" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "{'open': 5}\n")
    assert "Traceback" not in errors
