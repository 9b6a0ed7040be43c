"""LLaVA-Instruct (arXiv 2304.08485): conversations about COCO's pictures.

[{"id", "image", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, …]}]. Each turn
another question and its answer are asked alone. ``<image>`` may stand before or after the words.
Conversations without a picture are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import FlexEditError
from ...files import read_json, read_picture
from ...prompts import IMAGE
from ..sample import Sample
from .reader import Reader, Row, question


class LlavaInstruct(Reader):
    name = "llava"

    def __init__(self, conversations: str, pictures: str) -> None:
        self.conversations, self.pictures = Path(conversations), Path(pictures)

    @property
    def files(self) -> Sequence[Path]:
        return (self.conversations,)

    @cached_property
    def rows(self) -> Sequence[Row]:
        content = read_json(self.conversations)
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise FlexEditError(f"{self.conversations} is no list of conversations")
        self.without_picture = sum(not row.get("image") for row in content)
        return [
            Row(f"id {row.get('id')}", (number,), row)
            for number, row in enumerate(content)
            if row.get("image")
        ]

    def describe(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "rows_without_a_picture": self.without_picture}

    def read(self, row: Row, turn: int = 0) -> Sample:
        talk = [(said["from"], said["value"]) for said in row.content["conversations"]]
        asked = [
            (words, answer)
            for (asker, words), (other, answer) in pairwise(talk)
            if asker == "human" and other == "gpt"
        ]
        if not asked:
            raise FlexEditError("nothing in it is asked and answered")
        words, answer = asked[(row.key[0] + turn) % len(asked)]
        scene = read_picture(self.pictures / row.content["image"], upright=True)
        return question(scene, words.replace(IMAGE, ""), answer, name=row.where)
