"""How often text goes on as it did before, by how many tokens repeat: the numbers of `gelato_jax.decoding.lookup`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from gelato_jax.decoding.lookup import GREEDY_CHANCES
from gelato_jax.errors import GelatoError
from gelato_jax.training.corpus import Conversation
from gelato_jax.training.ids import read_ids
from gelato_jax.training.trace import suggestions

LONGEST = len(GREEDY_CHANCES)


def count(conversations: Sequence[Conversation]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of answers, by how many tokens repeat ahead of them, 0..M, and how many went on as before; `[M + 1]`.

    The first token of an answer comes with its prompt and is never drafted.
    """
    seen, right = np.zeros(LONGEST + 1), np.zeros(LONGEST + 1)
    for conversation in conversations:
        tokens = np.asarray(conversation.tokens)
        proposed, repeats = suggestions(tokens, LONGEST)
        drafted = slice(conversation.answer_start, len(tokens) - 1)
        counts = repeats[drafted]
        seen += np.bincount(counts, minlength=LONGEST + 1)
        right += np.bincount(counts[proposed[drafted] == tokens[1:][drafted]], minlength=LONGEST + 1)
    return seen, right


def main(corpus: Positional[Path] = Path("experiments/corpora/smollm2-135m-more.npz")) -> None:
    """Count in a corpus how often text went on as it had before, by how many tokens repeat: greedy, and sampled at 1.

    Args:
        corpus: File of ids that `gelato train-draft` keeps (corpus.npz); the default is of this repository.
    """
    try:
        conversations = read_ids(corpus)
    except (GelatoError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, temperature in (("greedy", 0.0), ("temperature 1", 1.0)):
        seen, right = count([row for row in conversations if row.temperature == temperature])
        chances = ", ".join(f"{value:.3f}" for value in right[1:] / np.maximum(seen[1:], 1))
        behind = seen[1:].sum() / max(seen.sum(), 1)
        print(f"{name}: {seen.sum():.0f} tokens, {behind:.0%} behind a repeat; {chances}")


if __name__ == "__main__":
    tyro.cli(main)
