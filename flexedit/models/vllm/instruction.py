"""What stands in the place of a VLLM where a system has none."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ...errors import FlexEditError
from ...request import EditRequest
from ..parts import Reading


class Instruction(nn.Module):
    """The instruction itself is the reading; nothing is said."""

    longest_answer = 0

    def memory_required(self, num_rows: int, num_pictures: int) -> int:
        return 0

    def read(
        self,
        request: EditRequest,
        marked: Tensor,
        reply: str = "direct",
        on_token: Callable[[int], None] | None = None,
    ) -> Reading:
        """Raises FlexEditError for a question."""
        if "ask" in request.tasks:
            raise FlexEditError(
                "This model has no VLLM: it follows an instruction, but answers no question. Give "
                "it an edit, or choose another model."
            )
        empty = ("",) * request.batch_size
        return Reading(request.instructions, empty, empty, None)
