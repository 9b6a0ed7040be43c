"""FlexEdit: free-shape masks, a vision language model and diffusion, for flexible image editing.

The way of one edit is told by :mod:`flexedit.pipeline`; read that first.
"""

__version__ = "0.1.0"
