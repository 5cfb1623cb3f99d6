"""Kernels in C++ for CPUs: compiled on the machine that runs them, when an op that has one is first traced.

The ops work without them; `available` and `reason` say what this machine has.
"""

from gelato_kernels.native.library import available, instructions, prepare, reason

__all__ = ["available", "instructions", "prepare", "reason"]
