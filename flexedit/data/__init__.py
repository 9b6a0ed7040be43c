"""Data to train and measure on: a synthetic world whose edits have exact truths. One's own are in
`edits`.
"""

from .assets import CLASSES, all_styles
from .export import contact_sheet, write
from .world import FULL_MASK, OPERATIONS, Sample, World

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
