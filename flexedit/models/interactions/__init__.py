"""Interactions: the edit embeddings and the scene's patches look at each other, once, before the
guidance.

An interaction is a Part, built from its Config (which has ``width``, ``vision_width`` and
``channels``, of the UNet's first convolution), with ``forward(e, scene, size) → e, residual
(B, channels, h, w)``: what is added after that convolution, in all branches.
"""

from .bim import BIM

INTERACTIONS = {"bim": BIM}
