"""The names under which :mod:`.editors` was known first; people's classes derive from System."""

from .editors import (
    Answer,
    BenchmarkTask,
    Editor,
    Finished,
    FlexEdit,
    InstructPix2Pix,
    ReturnScene,
    RoundTrip,
    Truth,
    Work,
    described,
    folder_name,
    one_line,
)

System = Editor

__all__ = [
    "Answer",
    "BenchmarkTask",
    "Finished",
    "FlexEdit",
    "InstructPix2Pix",
    "ReturnScene",
    "RoundTrip",
    "System",
    "Truth",
    "Work",
    "described",
    "folder_name",
    "one_line",
]
