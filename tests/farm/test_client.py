"""A client takes whatever a server answers as that server's fault."""

import asyncio
import socket
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexedit.farm import client as clients
from flexedit.farm.client import Client, Outcome, Task
from flexedit.farm.graph import Graph, complaints, differing, uploads
from tests.farm.servers import GRAPH, INFO, Fake

PATHS = ("system_stats", "object_info", "queue", "prompt", "history", "upload")
WORDS = st.sampled_from(
    [
        "system",
        "input",
        "required",
        "outputs",
        "status",
        "status_str",
        "messages",
        "prompt_id",
        "3",
        "images",
        "filename",
        "node_errors",
        "errors",
        "error",
        "queue_running",
        "Edit",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def fake() -> Any:
    with Fake() as fake:
        yield fake


@given(st.dictionaries(st.sampled_from(PATHS), JSON, min_size=1, max_size=2))
@settings(max_examples=100, deadline=None)
def test_any_answer_is_an_outcome_or_a_sentence(fake, answers):
    async def both() -> tuple[Any, Outcome]:
        client = Client(fake.url)
        task = Task(str(uuid.uuid4()), GRAPH, {"a.png": b"content"}, seconds=3.0)
        try:
            return await client.describe(list(INFO)), await client.edit(task)
        finally:
            await client.close()

    settle, clients.SETTLE = clients.SETTLE, 1
    fake.answers = answers
    about, outcome = asyncio.run(both())
    clients.SETTLE = settle
    if isinstance(about, dict):
        graph = Graph(GRAPH, "graph.json")
        assert all(isinstance(it, str) for it in complaints(graph, about["nodes"], []))
        uploads(graph, about["nodes"]), differing(graph, about["nodes"], {})
    else:
        assert about
    assert outcome.kind in ("done", "failed", "lost")
    assert outcome.why or outcome.kind == "done"


def test_a_name_and_password_are_not_written_down():
    assert clients.public("https://me:secret@farm.example:8188/one/") == (
        "https://farm.example:8188/one"
    )


def test_an_edit_that_takes_too_long_ends_no_other_on_its_server():
    async def both(url: str) -> list[Outcome]:
        client = Client(url)
        edits = (client.edit(Task(name, GRAPH, {}, seconds=1.0)) for name in ("one", "two"))
        try:
            return await asyncio.gather(*edits)
        finally:
            await client.close()

    with Fake(lambda _: "hang") as busy:
        outcomes = asyncio.run(both(busy.url))
        assert [it.why for it in outcomes] == ["not done after 1 seconds"] * 2
        assert busy.interrupted == busy.queue[:1]  # the other waited


def test_a_server_that_says_nothing_is_not_called_slow(monkeypatch):
    async def ask(url: str) -> Outcome:
        client = Client(url)
        try:
            return await client.edit(Task(str(uuid.uuid4()), GRAPH, {}, seconds=600.0))
        finally:
            await client.close()

    monkeypatch.setattr(clients, "SILENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        outcome = asyncio.run(ask(f"http://127.0.0.1:{mute.getsockname()[1]}"))
    assert outcome.kind == "lost" and "600" not in outcome.why and outcome.why
