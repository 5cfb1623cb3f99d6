"""What was recorded of a real pair: a draft of full length at every position of its target's texts, and its file.

A recording needs no model to be replayed: it holds what the rollouts showed, what the draft's entropy
says, what an exit costs, and the sizes of both vocabularies.
"""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write
from gelato_jax.payloads import Vocabularies
from gelato_jax.types import Calibration, record

FORMAT = 3
"""Version of the file."""


@record
class Rollouts:
    """What drafting G tokens from every position would show, all stops off, once for each fixed exit.

    R texts, N positions (padded), X exits, G drafted tokens. Position n is a round that begins when n + 1
    tokens of the answer are committed: the first came with the prompt.
    """

    entropy: Array  # [R, N, X, G] float32 nats, of the draft's unprocessed softmax
    max_probability: Array  # [R, N, X, G] float32, of the same
    chance: Array  # [R, N, X, G] float32 min(1, p(x) / q(x)) of the drafted token after the drafts before it
    q: Array  # [R, N, X, G] float32 q(x), in the distribution it was drawn from
    p: Array  # [R, N, X, G] float32 p(x), in the distribution of the text
    overlap: Array  # [R, N, X, G] float32 sum of min(p, q), 1 - TV; `1 - overlap` is the residual's mass
    support: Array  # [R, N, X, G] int32 tokens in the top-p set of q, in the distribution it was drawn from (greedy: 1)
    ends: Array  # [R, N, X] int32 position of the first drafted end of sequence, G where there is none
    accepted: Array  # [R, N, X] int32 leading drafts that the recorded uniforms accept
    positions: Array  # [R] int32 rounds' positions of a text: its tokens less the first
    limit: Array  # [R] int32 positions that the text might have had: most new tokens, less the first
    prompt_tokens: Array  # [R] int32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """Rollouts of one pair under one distribution.

    Attributes:
        rollouts: NumPy leaves.
        calibration: what the draft's entropy says under this distribution, NumPy leaves.
        work: `[X]` cost of a token that leaves at each exit, as a share of the deepest.
        vocab_size: target ids.
        draft_vocab_size: columns of q.
        further: the last column stands for a repeated token that the head lacks.
        categories: of each text.
        about: how it was made; JSON. `pair`, `draft`, `temperature`, `top_p_mass` (of `support`), `exits`, `seed`,
            `prompts`, `max_new_tokens`, `versions`.
    """

    rollouts: Rollouts
    calibration: Calibration
    work: np.ndarray
    vocab_size: int
    draft_vocab_size: int
    further: bool
    categories: tuple[str, ...]
    about: dict[str, Any]

    @property
    def vocabularies(self) -> Vocabularies:
        """The sizes that messages are counted by."""
        return Vocabularies(target=self.vocab_size, draft=self.draft_vocab_size, further=self.further)

    @property
    def max_draft_length(self) -> int:
        """G."""
        return self.rollouts.entropy.shape[-1]

    @property
    def temperature(self) -> float:
        """Of the texts; 0 is greedy."""
        return float(self.about["temperature"])

    def take(self, rows: Sequence[int]) -> "Recording":
        """The texts at `rows`."""
        chosen = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            rollouts=jax.tree.map(lambda leaf: leaf[chosen], self.rollouts),
            categories=tuple(self.categories[row] for row in chosen),
        )

    def without_prompts(self) -> "Recording":
        """The same texts, begun for nothing: rounds alone."""
        nothing = np.zeros_like(self.rollouts.prompt_tokens)
        return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, prompt_tokens=nothing))

    def halves(self) -> tuple["Recording", "Recording"]:
        """Two halves of as many texts and like categories: to tune on, and to judge on. An odd text is left out."""
        order = sorted(range(len(self.categories)), key=lambda row: self.categories[row])
        pairs = len(order) // 2
        return self.take(order[0 : 2 * pairs : 2]), self.take(order[1 : 2 * pairs : 2])


def save(path: Path, recording: Recording) -> None:
    """Write a recording, compressed, whole or not at all.

    Args:
        path: a `.npz` file.
        recording: what goes in.
    """
    arrays: dict[str, Any] = {f"rollouts.{name}": leaf for name, leaf in vars(recording.rollouts).items()}
    arrays |= {f"calibration.{name}": np.asarray(leaf) for name, leaf in recording.calibration.stored().items()}
    facts = {
        "format": FORMAT,
        "vocab_size": recording.vocab_size,
        "draft_vocab_size": recording.draft_vocab_size,
        "further": recording.further,
        "categories": recording.categories,
        "about": recording.about,
    }
    with atomic_write(path) as stream:
        np.savez_compressed(stream, work=recording.work, facts=np.array(json.dumps(facts)), **arrays)


def load(path: Path) -> Recording:
    """Read a recording.

    Args:
        path: what `save` wrote.

    Raises:
        GelatoError: the file is no recording, or of another format; names it.
        OSError: it cannot be opened.
    """
    arrays = _read(path)
    try:
        facts = json.loads(str(arrays["facts"]))
        if facts["format"] != FORMAT:
            raise GelatoError(
                f"{path} is a recording of format {facts['format']}, this release reads {FORMAT}: record again"
            )
        return Recording(
            rollouts=Rollouts(**_named(arrays, "rollouts.")),
            calibration=Calibration.restored(_named(arrays, "calibration.")),
            work=arrays["work"],
            vocab_size=facts["vocab_size"],
            draft_vocab_size=facts["draft_vocab_size"],
            further=facts["further"],
            categories=tuple(facts["categories"]),
            about=facts["about"],
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise GelatoError(f"{path} is no recording (what `gelato record` writes): {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file, none of them pickled."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # numpy leaves a bad archive open
            return {name: file[name] for name in file.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise GelatoError(f"{path} is no recording (what `gelato record` writes): it is no whole .npz file") from None


def _named(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
