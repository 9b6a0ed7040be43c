"""What a command says on standard error."""

from __future__ import annotations

import sys

NO_MEMORY = "There is not enough memory for this. Take smaller pictures or fewer."


def warn(message: str) -> None:
    print(f"flexedit: {' '.join(message.split())}", file=sys.stderr)


def lacks_memory(error: Exception) -> bool:
    said = str(error).lower()  # the CPU's allocator has no class of its own
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def progress(done: int, total: int) -> None:
    print(f"\rstep {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
