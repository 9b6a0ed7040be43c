"""Data to train and measure on: a synthetic world whose edits have exact truths."""

from .world import CLASSES, OPERATIONS, Sample, World

__all__ = ["CLASSES", "OPERATIONS", "Sample", "World"]
