"""Prompts of like length together, for loops over more prompts than fit in one batch."""

from collections.abc import Sequence
from typing import NamedTuple

from gelato_jax.decoding.job import SMALLEST_BUFFER, seeds_of


class PromptBatch(NamedTuple):
    """Prompts that are decoded together; the last is repeated where rows are left."""

    rows: list[int]  # which of all prompts, without those repeated
    prompts: list[Sequence[int]]
    seeds: tuple[int, ...]


def prompt_batches(
    ids: Sequence[Sequence[int]], *, most_rows: int, slots: int, seed: int | Sequence[int]
) -> list[PromptBatch]:
    """Sort prompts by length and cut them into batches. What a prompt draws does not depend on its batch.

    Args:
        ids: of each prompt.
        most_rows: of a batch whose prompts fit the smallest buffer.
        slots: that a row needs beside its prompt.
        seed: one for all, or one for each prompt.
    """
    order, seeds = sorted(range(len(ids)), key=lambda index: len(ids[index])), seeds_of(seed, len(ids))
    batches: list[PromptBatch] = []
    done = 0
    while done < len(order):
        # A long prompt needs a longer buffer: fewer rows, so that the caches stay of one size.
        longest = len(ids[order[min(done + most_rows, len(order)) - 1]]) + slots
        fitting = most_rows * SMALLEST_BUFFER // max(SMALLEST_BUFFER, 1 << longest.bit_length())
        rows = max(1, min(len(ids), fitting))
        chosen = order[done : done + rows]
        filled = chosen + chosen[-1:] * (rows - len(chosen))
        batches.append(PromptBatch(chosen, [ids[index] for index in filled], tuple(seeds[index] for index in filled)))
        done += len(chosen)
    return batches
