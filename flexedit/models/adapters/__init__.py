"""Adapters: from edit embeddings and pictures to what the UNet's cross-attention reads.

An adapter is a Part, built from its Config (which has ``width``, ``clip_width``, ``reads_subject``
and ``attends_apart``) and the UNet's cross-attention layers, with ``forward(e, reading, scene,
subject, has_subject, strength) → Features``; its own keys and values for the subject, layer by
layer, if it has any, are its ``subject``.
"""

from .iaa import IAA
from .mea import MEA

ADAPTERS = {"mea": MEA, "iaa": IAA}
