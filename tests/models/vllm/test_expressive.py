"""Expressive instructions; test_stock.py has stock VLLMs' own."""

import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.vllm import Instruction
from flexedit.models.vllm.expressive import MAX_WORDS, concise, express
from flexedit.request import EditRequest
from tests.tiny import make_tiny_system

LONG = " ".join(f"word{number}" for number in range(40))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Cover the lawn with snow.", "Cover the lawn with snow."),
        ("USER: make it\nwinter ASSISTANT: Cover it\nwith snow.</s> More", "Cover it with snow."),
        ("Paint it red. Make it shine. Add a bow.", "Paint it red. Make it shine."),
        ("Show an alternative sign.", "Show an alternative sign."),
        ("A red car [IMG0] [IMG1]", "A red car"),
        ("“Paint it red.”", "Paint it red."),
        (f"Paint it red. {LONG}.", "Paint it red."),
        (f"{LONG}. Paint it red.", " ".join(LONG.split()[:MAX_WORDS]) + "."),
        ("", ""),
    ],
)
def test_a_reply_is_cut_down_to_what_counts(reply, expected):
    assert concise(reply) == expected
    assert len(expected.split()) <= MAX_WORDS


def test_mgies_second_thought_is_cut_off():
    assert concise("A red car. Alternatively, a blue one.", by_mgie=True) == "A red car."


def test_mgies_vllm_is_asked_as_it_was_taught(tmp_path):
    vllm = make_tiny_system("mgie", tmp_path).load_vllm()
    request = EditRequest.create(torch.rand(2, 3, 40, 60), "make it winter")
    counts: list[int] = []
    said = express(vllm, request, True, counts.append)
    replies = vllm.read(request, request.scene, "generate").replies
    assert said == tuple(concise(reply, True) or "make it winter" for reply in replies)
    assert counts
    with pytest.raises(FlexEditError, match="was not taught to say an instruction at length"):
        express(vllm, request, False)


def test_a_model_without_a_vllm_is_refused():
    request = EditRequest.create(torch.rand(3, 8, 8), "make it winter")
    with pytest.raises(FlexEditError, match="no VLLM that could speak"):
        express(Instruction(), request, False)
