"""The VLLM: reads the marked scene, the subject and the instruction. In a system without one
(``vllm: null``) the instruction itself is what the bridge reads.
"""

from .base import VLLM
from .families import FAMILIES
from .instruction import Instruction

VLLMS = dict.fromkeys(FAMILIES, VLLM)

__all__ = ["VLLM", "VLLMS", "Instruction"]
