"""Bridges: from what the VLLM understood to edit embeddings, H → e, and what they are without one.

A bridge is a Part with ``forward(reading) → Text`` and ``null(batch) → Text`` (e∅); its Config has
``num_embeddings`` (Q) and ``width`` (D_context). ``pooler``: a CLIP text encoder that says the
instruction in one vector, where the UNet reads that too.
"""

from ..parts import Part
from .clip_text import CLIPText
from .edit_mapper import EditMapper
from .qformer import QFormer

BRIDGES: dict[str, type[Part]] = {
    "qformer": QFormer,
    "edit_mapper": EditMapper,
    "clip_text": CLIPText,
}
