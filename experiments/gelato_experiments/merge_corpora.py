"""`python -m gelato_experiments.merge_corpora OUT.npz PATH PATH ...`: several corpora of one target as one file of ids.

`gelato train-draft --corpus OUT.npz` trains on it. A corpus that is still being written can be taken as it is: its
folder `training/corpus`. Conversations that are there already are left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from gelato_jax.errors import GelatoError
from gelato_jax.training.corpus import Conversation, read_corpus, shard_paths
from gelato_jax.training.ids import read_ids, write_ids


def merge(out: Path, paths: Sequence[Path]) -> list[Conversation]:
    """Write one file of ids.

    Args:
        out: the file; not one of `paths`.
        paths: files of ids, and folders of shards; their order is kept.

    Returns:
        The conversations written.

    Raises:
        GelatoError: a path holds no corpus, or is the file to be written.
    """
    if out.resolve() in [path.resolve() for path in paths]:
        raise GelatoError(f"{out} is to be read and written; name another file to write")
    seen, merged = set(), []
    for path in paths:
        if path.is_dir() and not shard_paths(path):
            raise GelatoError(f"{path}: holds no shard of a corpus; give a folder that has some, or a file of ids")
        for conversation in read_corpus(path) if path.is_dir() else read_ids(path):
            identity = (conversation.tokens.astype("uint32").tobytes(), conversation.answer_start)
            if identity not in seen:
                seen.add(identity)
                merged.append(conversation)
    write_ids(out, merged)
    return merged


def main(
    out: Positional[Path],
    paths: Annotated[Positional[list[Path]], arg(metavar="PATH [PATH ...]")],
) -> None:
    """Merge corpora that one target wrote into a file of ids for `gelato train-draft --corpus`.

    Args:
        out: File to write.
        paths: Files of ids (corpus.npz), and folders of shards (training/corpus).
    """
    try:
        merged = merge(out, paths)
    except (GelatoError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {sum(len(c.tokens) for c in merged)} tokens in {len(merged)} conversations")


if __name__ == "__main__":
    tyro.cli(main)
