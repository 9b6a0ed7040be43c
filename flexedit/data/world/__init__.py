"""A synthetic world in which every edit has an exact truth: `world` says how a sample is made."""

from .assets import CLASSES, all_styles
from .export import write
from .world import FULL_MASK, OPERATIONS, World

__all__ = ["CLASSES", "FULL_MASK", "OPERATIONS", "World", "all_styles", "write"]
