"""FlexEdit: free-shape masks, a vision language model and diffusion, for flexible image editing.

The way of one edit is told by :mod:`flexedit.pipeline`; read that first.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "strokes":  # where scripts that were written for docs/strokes.md look for it
        from .masks import strokes

        return strokes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
