import sys

import pytest

from flexedit.convert.tokenizer import write_tokenizer
from flexedit.errors import FlexEditError
from tests.released import vocabulary


def test_without_sentencepiece_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(FlexEditError, match=r"sentencepiece, .* is not installed"):
        write_tokenizer(tmp_path, tmp_path / "tokenizer.model", ())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "lacks tokenizer.model, its vocabulary"),
        (b"", "is no SentencePiece vocabulary"),
        (b"version https://git-lfs", "is no SentencePiece vocabulary"),
        (vocabulary()[:500], "is no SentencePiece vocabulary"),
    ],
)
def test_what_is_no_vocabulary_is_refused(content, complaint, tmp_path):
    file = tmp_path / "tokenizer.model"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FlexEditError, match=complaint):
        write_tokenizer(tmp_path / "out", file, ())
    assert not (tmp_path / "out").exists()
