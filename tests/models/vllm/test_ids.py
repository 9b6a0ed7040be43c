"""The rule by which SmartEdit's and MGIE's texts became ids, against SentencePiece itself."""

import sys

import pytest
import sentencepiece
from transformers import AutoTokenizer

from flexedit.convert.tokenizer import write_tokenizer
from flexedit.models.vllm.ids import prompt_ids, reply_ids
from flexedit.prompts import PromptConfig
from tests.released import SENTENCES, VOCABULARY, vocabulary

ADDED = ("<img>", "<im_start>", "<im_end>", "<img_0>", "<img_1>", "<img_10>", "<image>")
STRETCHES = PromptConfig(ids="stretches")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(vocabulary())
    write_tokenizer(folder / "out", folder / "tokenizer.model", ADDED)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "out")


@pytest.fixture(scope="module")
def pieces(folder):
    """Text → ids by SentencePiece, which knows no added token."""
    reader = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return reader.encode


def added(name: str) -> int:
    return VOCABULARY + ADDED.index(name)


@pytest.mark.parametrize("text", [*SENTENCES, "  two  blanks", "ünïcode 😀", "line\nline 1234"])
def test_the_written_tokenizer_reads_as_sentencepiece_does(text, tokenizer, pieces):
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces(text)
    assert tokenizer.decode(pieces(text)) == text


def test_added_tokens_follow_the_vocabulary(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(ADDED)) == [added(name) for name in ADDED]
    assert len(tokenizer) == VOCABULARY + len(ADDED)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_smartedits_prompt_is_cut_at_its_added_tokens(tokenizer, pieces):
    text = 'It can generate <img>. USER: an "<im_start> <image> <im_end>left cat". ASSISTANT:'
    assert prompt_ids(tokenizer, text, STRETCHES) == [
        1,
        *pieces("It can generate"),
        added("<img>"),
        *pieces(". USER: an \""),
        added("<im_start>"),
        added("<image>"),
        added("<im_end>"),
        *pieces('left cat". ASSISTANT:'),
    ]  # fmt: skip


def test_a_tokenizer_without_a_beginning_begins_with_the_text(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    _, *words = prompt_ids(tokenizer, "an <img>image", STRETCHES)
    tokenizer.bos_token = None
    assert prompt_ids(tokenizer, "an <img>image", STRETCHES) == words


def test_a_reply_goes_on_where_the_prompt_ended(tokenizer, pieces):
    prompt, reply = "USER: an image ASSISTANT:", "Sure, I can generate"
    both = prompt_ids(tokenizer, prompt, STRETCHES) + reply_ids(tokenizer, reply, STRETCHES)
    assert both == [1, *pieces(f"{prompt} {reply}")]
    assert reply_ids(tokenizer, "", STRETCHES) == []


def test_edit_tokens_are_neighbours(tokenizer):
    ids = reply_ids(tokenizer, "<img_0> <img_1> <img_10>", STRETCHES)
    assert ids == [added("<img_0>"), added("<img_1>"), added("<img_10>")]


def test_mgies_newline_before_its_picture_is_lost(tokenizer, pieces):
    ids = prompt_ids(tokenizer, "a red cat'\n<im_start><image><im_end> ASSISTANT:", STRETCHES)
    names = ("<im_start>", "<image>", "<im_end>")
    assert ids == [1, *pieces("a red cat'"), *map(added, names), *pieces("ASSISTANT:")]


def test_the_other_rule_is_the_tokenizers_own(tokenizer):
    text = "an <img> image"
    ids = prompt_ids(tokenizer, text, PromptConfig())
    assert ids == tokenizer(text)["input_ids"] != prompt_ids(tokenizer, text, STRETCHES)


def test_neither_sentencepiece_nor_protobuf_is_needed_to_read_it(folder, monkeypatch):
    for name in ("sentencepiece", "google.protobuf"):
        monkeypatch.setitem(sys.modules, name, None)
    assert AutoTokenizer.from_pretrained(folder / "out")("an image")["input_ids"][0] == 1
