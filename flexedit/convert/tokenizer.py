"""A SentencePiece vocabulary → a ``tokenizer.json``, which needs neither SentencePiece nor protobuf
to be read, and the tokens that a system added to it, at the places that it gave them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import FlexEditError

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
BLANK = "▁"  # how SentencePiece writes it


def write_tokenizer(folder: Path, vocabulary: Path, added: Sequence[str]) -> None:
    """Writes LLaMA's tokenizer of SentencePiece's file ``vocabulary`` to a folder; ``added`` take
    the ids after it, in this order.

    Raises FlexEditError for a file that is not there or no such vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pieces = read_pieces(vocabulary)
    ids = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    model = models.BPE(
        vocab=ids, merges=list(merges(pieces)), unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    known = list(dict.fromkeys(SPECIAL.values()))
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in (*known, *added)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = SPECIAL | {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def read_pieces(file: Path) -> list[tuple[str, float, bool]]:
    """Each piece of a vocabulary, its score, and whether it is made of others."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise FlexEditError(
            "The package sentencepiece, which reads a tokenizer.model, is not installed. Install "
            'it: pip install "flexedit[convert]", or pip install sentencepiece'
        ) from error
    if not file.is_file():
        raise FlexEditError(f"{file.parent} lacks {file.name}, its vocabulary. Download it too.")
    reader: Any = SentencePieceProcessor()
    try:
        reader.Load(str(file))
    except (RuntimeError, OSError) as error:
        raise FlexEditError(f"{file} is no SentencePiece vocabulary. Download it again.") from error
    return [
        (reader.IdToPiece(index), reader.GetScore(index), is_made(reader, index))
        for index in range(reader.GetPieceSize())
    ]


def is_made(reader: Any, index: int) -> bool:
    return not (reader.IsByte(index) or reader.IsControl(index) or reader.IsUnknown(index))


def merges(pieces: Sequence[tuple[str, float, bool]]) -> Iterator[tuple[str, str]]:
    """The pairs that become one piece, the first ones first: where a score is higher."""
    ids = {piece: index for index, (piece, _, made) in enumerate(pieces) if made}
    pairs = [
        (-score, ids[left], ids[right], left, right)
        for piece, score, made in pieces
        if made
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    yield from ((left, right) for *_, left, right in sorted(pairs))
