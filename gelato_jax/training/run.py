"""A training run: batches in, a trained draft out, state on the disk so that a kill costs one interval at most."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from gelato_jax.files import atomic_write
from gelato_jax.models import Model
from gelato_jax.training.batches import Batches
from gelato_jax.training.distill import TrainSettings, TrainState, batch_sums, make_optimizer, split_trained, train_step

SAVE_EVERY_S = 300.0
"""Seconds between two states on the disk: what a kill can cost."""

_LOG_EVERY = 10  # steps


def train(
    model: Model,
    batches: Batches,
    settings: TrainSettings,
    folder: Path,
    *,
    dtype: DTypeLike = jnp.bfloat16,
    held_out: Batches | None = None,
    measurements: int = 10,
    save_every_s: float = SAVE_EVERY_S,
    progress: Callable[[int, int, dict[str, float]], None] = lambda done, total, report: None,
) -> Model:
    """Train a draft, or go on with it where a killed run left its state.

    On several devices every batch is shared among them by rows, weights repeated; `Batches.multiple`
    is then the number of devices.

    Args:
        model: the draft to start from.
        batches: the corpus.
        settings: of the run; a state on the disk must be of the same.
        folder: of the state and of `log.jsonl`, one line every tenth step.
        dtype: of the products.
        held_out: conversations that are only measured.
        measurements: how often they are, over the run.
        save_every_s: seconds between two states.
        progress: told steps done, steps in all, and the last step's report.

    Returns:
        The trained draft, float32.
    """
    steps = max(1, round(settings.epochs * batches.batches_per_epoch(settings.seed)))
    optimizer = make_optimizer(settings, steps)
    trained, fixed = split_trained(model.params)
    shape = Model(config=model.config, params={})
    by_rows, repeated = _shardings()
    trained = jax.tree.map(jnp.copy, trained)  # a step takes its state's arrays, and the caller keeps the model
    fresh = TrainState(trained, optimizer.init(trained), jnp.zeros((), jnp.int32))
    folder.mkdir(parents=True, exist_ok=True)
    states = _States(folder / "state")
    state, fixed = jax.device_put((states.latest(fresh), fixed), repeated)
    first, saved = int(state.step), time.monotonic()
    log = _Log(folder / "log.jsonl", first)
    looks = {round(steps * (look + 1) / measurements) for look in range(measurements)}
    stream = batches.shuffled(settings.seed, skip=first)
    for step in range(first, steps):
        state, report = train_step(
            state,
            fixed,
            jax.device_put(next(stream), by_rows),
            shape,
            settings=settings,
            optimizer=optimizer,
            dtype=dtype,
        )
        done = step + 1
        values = {name: float(value) for name, value in jax.device_get(report).items()}
        progress(done, steps, values)
        if held_out is not None and done in looks:
            log.write(done, "held_out", evaluate(state.trained, fixed, held_out, shape, dtype))
        if done % _LOG_EVERY == 0:
            log.write(done, "train", values)
        if time.monotonic() - saved > save_every_s or done == steps:
            states.save(done, state)
            saved = time.monotonic()
    return Model(config=model.config, params={**state.trained, **fixed})


def evaluate(trained: dict, fixed: dict, held_out: Batches, shape: Model, dtype: DTypeLike) -> dict[str, float]:
    """Averages over conversations that are not trained on: divergence, acceptance and agreement at every exit."""
    totals: dict[str, float] = {}
    for batch in held_out.once():
        for name, value in jax.device_get(batch_sums(trained, fixed, batch, shape, dtype=dtype)).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    weights = {"agreement": totals.pop("greedy_weight"), "other": totals.pop("weight")}
    return {
        name: value / max(weights["agreement" if name.startswith("agreement") else "other"], 1e-9)
        for name, value in totals.items()
    }


def _shardings() -> tuple[NamedSharding, NamedSharding]:
    """Rows shared among all devices; everything everywhere."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


class _States:
    """The newest state of a run, by Orbax: a new one replaces the last when it is whole."""

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        self._args = ocp.args
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self, fresh: TrainState) -> TrainState:
        """The newest state of the form of `fresh`, or `fresh`."""
        step = self._manager.latest_step()
        if step is None:
            return fresh
        abstract: Any = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), fresh
        )
        state: Any = self._manager.restore(step, args=self._args.StandardRestore(abstract))
        return state

    def save(self, step: int, state: TrainState) -> None:
        """Write the state of a step."""
        self._manager.save(step, args=self._args.StandardSave(state))


class _Log:
    """One JSON object a line; lines beyond the step a run goes on from are cut off."""

    def __init__(self, path: Path, step: int) -> None:
        # The last line may have been torn by a kill.
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with atomic_write(path) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())
        self._path = path

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")


def read_log(folder: Path) -> Sequence[dict[str, Any]]:
    """Lines of a run's log, in the order of steps."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] if path.exists() else []
