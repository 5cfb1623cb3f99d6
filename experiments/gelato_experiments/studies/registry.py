"""Names of the studies, in the order in which they are run and reported.

Importing this file imports no study: their modules need JAX and matplotlib, a list of them does not.
"""

import ast
import importlib
import importlib.util
from pathlib import Path

from gelato_experiments.study import Study
from gelato_jax.errors import GelatoError

STUDIES: dict[str, str] = {
    "where": "gelato_experiments.studies.where",
    "frontier": "gelato_experiments.studies.frontier",
    "headline": "gelato_experiments.studies.headline",
    "ablation": "gelato_experiments.studies.ablation",
    "penalty_sweep": "gelato_experiments.studies.penalty_sweep",
    "queue_stability": "gelato_experiments.studies.queue_stability",
    "fluctuation": "gelato_experiments.studies.fluctuation",
    "delay": "gelato_experiments.studies.delay",
    "workloads": "gelato_experiments.studies.workloads",
    "depth": "gelato_experiments.studies.depth",
    "calibration": "gelato_experiments.studies.calibration",
    "losslessness": "gelato_experiments.studies.losslessness",
    "real_loop": "gelato_experiments.studies.real_loop",
}
"""Name -> module with a `STUDY`; a new study is one line here."""


def select(wanted: str) -> list[str]:
    """The names that a command means.

    Args:
        wanted: a key of `STUDIES`, or `all`.

    Raises:
        GelatoError: no study is called that.
    """
    if wanted == "all":
        return list(STUDIES)
    _known(wanted)
    return [wanted]


def load(name: str) -> Study:
    """Import a study.

    Args:
        name: a key of `STUDIES`.

    Raises:
        GelatoError: no study is called that.
    """
    _known(name)
    return importlib.import_module(STUDIES[name]).STUDY


def question(name: str) -> str:
    """What a study asks, read from its source, so that listing imports nothing.

    Args:
        name: a key of `STUDIES`.

    Returns:
        The text of its `question=`; where that is no plain text, the study is imported for it.

    Raises:
        GelatoError: no study is called that.
    """
    _known(name)
    spec = importlib.util.find_spec(STUDIES[name])
    if spec is not None and spec.origin is not None:
        for node in ast.walk(ast.parse(Path(spec.origin).read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "question" and isinstance(node.value, ast.Constant):
                return str(node.value.value)
    return load(name).question


def _known(name: str) -> None:
    if name not in STUDIES:
        raise GelatoError(f"STUDY is {name!r}, must be all or one of {', '.join(STUDIES)}")
