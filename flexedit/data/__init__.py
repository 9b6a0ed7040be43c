"""Data to train and measure on: a synthetic world whose edits have exact truths. One's own are in
`edits`.
"""

from .world import CLASSES, FULL_MASK, OPERATIONS, Sample, World, all_styles
from .world.export import contact_sheet, write

__all__ = [
    "CLASSES",
    "FULL_MASK",
    "OPERATIONS",
    "Sample",
    "World",
    "all_styles",
    "contact_sheet",
    "write",
]
