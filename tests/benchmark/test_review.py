import base64
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexedit.benchmark.cases import Benchmark, Case
from flexedit.benchmark.review import MAX_BODY, ReviewServer
from flexedit.errors import FlexEditError

JSON = {"Content-Type": "application/json"}


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
    server: ReviewServer,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """GET, or POST with a body (text as it is, anything else as JSON) → status, answer"""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    if body is None:
        connection.request("GET", path, headers=headers or {})
    else:
        text = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", path, text, JSON if headers is None else headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, answer


def decide(server: ReviewServer, case: Case, **decision: Any) -> tuple[int, dict[str, Any]]:
    status, answer = ask(server, f"/case/{case.id}", decision)
    return status, json.loads(answer)


def png(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawn(benchmark: Benchmark, case: Case) -> np.ndarray:
    """A mask (H, W) bool that is not the case's own."""
    mask = np.zeros_like(benchmark.picture(case, "mask"))
    mask[5:20, 3:9] = True
    return mask


def kept(benchmark: Benchmark) -> tuple[Case, ...]:
    return Benchmark(benchmark.folder).cases


# Looking


def test_the_page_and_its_parts_are_served(server):
    for path, kind in (
        ("", "text/html"),
        ("style.css", "text/css"),
        ("review.css", "text/css"),
        ("review.js", "text/javascript"),
    ):
        with urllib.request.urlopen(server.url + path, timeout=30) as response:
            assert response.headers.get_content_type() == kind
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
            assert response.read()


def test_the_cases_and_their_pictures_are_served(server, benchmark):
    status, answer = ask(server, "/cases")
    assert status == 200
    assert [case["id"] for case in json.loads(answer)] == [case.id for case in benchmark.cases]
    case = benchmark.cases[3]
    assert case.subject is not None
    for name in ("scene", "mask", "full_mask", "truth", "region", "subject"):
        status, answer = ask(server, f"/picture/{case.id}/{name}")
        assert (status, answer) == (200, (benchmark.folder / getattr(case, name)).read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/cases.jsonl",
        "/picture/nobody/scene",
        "/picture/world-remove/subject",
        "/picture/world-remove/id",
        "/picture/world-remove/../../cases.jsonl",
        "/picture/..%2F..%2Fetc/scene",
        "/../review.py",
    ],
)
def test_nothing_else_can_be_had(server, path):
    assert ask(server, path)[0] == 404


def test_an_index_cannot_lead_out_of_its_folder(server, benchmark):
    Image.new("L", (64, 64), 255).save(benchmark.folder.parent / "secret.png")
    case = replace(benchmark.cases[0], mask="../secret.png")
    benchmark.rewrite([case, *benchmark.cases[1:]])
    assert ask(server, f"/picture/{case.id}/mask")[0] == 403
    status, _ = decide(server, case, mask=png(np.full((64, 64), 255, np.uint8)))
    assert status == 403
    assert sorted(path.name for path in benchmark.folder.parent.iterdir()) == [
        "benchmark",
        "secret.png",
    ]


# Deciding


@pytest.mark.parametrize("review", ["accepted", "rejected", "open"])
def test_a_decision_is_kept_in_the_index_at_once(server, benchmark, review):
    case = benchmark.cases[1]
    status, answer = decide(server, case, review=review, note="  half a cup  ")
    assert (status, answer["review"]) == (200, review)
    changed = kept(benchmark)
    assert changed[1] == replace(case, review=review, note="half a cup")
    assert [one for one in changed if one.id != case.id] == [
        one for one in benchmark.cases if one.id != case.id
    ]


def test_a_note_alone_leaves_the_review_as_it_is(server, benchmark):
    decide(server, benchmark.cases[0], review="accepted")
    decide(server, benchmark.cases[0], note="“ü” \ud800")
    assert kept(benchmark)[0] == replace(benchmark.cases[0], review="accepted", note="“ü” ?")


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
    old = (benchmark.folder / case.mask).read_bytes()
    mask = drawn(benchmark, case)
    status, _ = decide(server, case, mask=png(mask.astype(np.uint8) * 255))
    assert status == 200
    changed = kept(benchmark)[2]
    assert changed == replace(case, review="redrawn", mask="mask/world-add.redrawn1.png")
    assert (changed.kind, changed.orientation) == (case.kind, case.orientation)
    assert np.array_equal(Benchmark(benchmark.folder).picture(changed, "mask"), mask)
    assert (benchmark.folder / case.mask).read_bytes() == old
    decide(server, case, mask=png(~mask))
    assert kept(benchmark)[2].mask == "mask/world-add.redrawn2.png"


def test_an_empty_mask_is_refused_and_says_what_to_do(server, benchmark):
    case = benchmark.cases[0]
    status, answer = decide(server, case, mask=png(np.zeros((64, 64), np.uint8)))
    assert status == 400
    assert answer["error"] == "The redrawn mask is empty. Paint what you mean, then save again."
    assert kept(benchmark) == benchmark.cases
    assert len(list((benchmark.folder / "mask").iterdir())) == len(benchmark.cases)


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"review": "splendid"}, "choose one of open, accepted, rejected"),
        ({"review": "redrawn"}, "choose one of open, accepted, rejected"),
        ({"note": "n" * 2001}, "at most 2000"),
        ({"note": 3}, "at most 2000"),
        ({"instruction": "other"}, "nothing else"),
        ({}, "nothing else"),
        (["accepted"], "nothing else"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ({"mask": 5}, "must be a PNG"),
        ({"mask": "data:image/jpeg;base64,AAAA"}, "must be a PNG"),
        ({"mask": "data:image/png;base64,ÄÄÄÄ"}, "cannot be read"),
        ({"mask": "data:image/png;base64,AAAA"}, "cannot be read"),
        ({"mask": png(np.zeros((32, 64), np.uint8))}, "64×32 pixels; this scene needs"),
        ({"mask": png(np.full((64, 64), 255, np.uint8))[:98]}, "cannot be read"),
        ({"review": "accepted", "mask": "nonsense"}, "must be a PNG"),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_changes_nothing(server, benchmark, decision, says):
    status, answer = ask(server, f"/case/{benchmark.cases[0].id}", decision)
    assert status == 400
    assert says in json.loads(answer)["error"]
    assert kept(benchmark) == benchmark.cases


def test_an_unknown_case_is_not_found(server):
    assert ask(server, "/case/nobody", {"review": "accepted"})[0] == 404
    assert ask(server, "/cases", {"review": "accepted"})[0] == 404


# Strangers


def test_other_websites_can_neither_read_nor_post(server, benchmark):
    case, accept = f"/case/{benchmark.cases[0].id}", {"review": "accepted"}
    own = f"http://127.0.0.1:{server.server_port}"
    for stranger in (
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{server.server_port + 1}"},
        {"Host": f"example.org:{server.server_port}"},
        {"Host": "127.0.0.1"},
    ):
        assert ask(server, case, accept, JSON | stranger)[0] == 403
        assert ask(server, "/cases", headers=stranger)[0] == 403
    assert ask(server, case, accept, {"Content-Type": "text/plain"})[0] == 415
    assert kept(benchmark) == benchmark.cases
    assert ask(server, case, accept, JSON | {"Origin": own})[0] == 200


def raw(server: ReviewServer, request: str) -> bytes:
    """What is sent back for these very bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (f"Content-Length: {MAX_BODY + 1}", 413),
        ("Content-Length: " + "9" * 5000, 411),
        ("Content-Length: -1", 411),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_a_body_of_no_or_enormous_length_is_not_read(server, benchmark, length, status):
    head = f"POST /case/{benchmark.cases[0].id} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}"
    answer = raw(server, f"{head}\r\nContent-Type: application/json\r\n{length}\r\n\r\n{{}}")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1  # the unread body was not taken for a request


def test_only_this_machine_can_reach_it(server):
    assert server.server_address[0] == "127.0.0.1"


# Starting and stopping


def test_a_folder_that_is_no_benchmark_is_told_at_once(tmp_path):
    with pytest.raises(FlexEditError, match="is not a benchmark"):
        ReviewServer(tmp_path)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_an_impossible_port_is_told(benchmark, port):
    with pytest.raises(FlexEditError, match=f"Port {port} cannot be used"):
        ReviewServer(benchmark.folder, port)


def test_a_port_in_use_is_told(server, benchmark):
    with pytest.raises(FlexEditError, match="Choose another, or 0"):
        ReviewServer(benchmark.folder, server.server_port)


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
