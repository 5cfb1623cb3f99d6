"""From options to a pair and its streams: what `generate` and `serve` begin with."""

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import DecodeSettings, Pair
    from gelato_jax.remote.client import Client, EdgeClient
    from gelato_jax.serving.engine import OpenStream


def open_pair(
    values: dict[str, Any],
    settings: "DecodeSettings",
    choices: dict[str, Any],
    client: "EdgeClient | None",
    progress: "Progress",
    *,
    at_once: int = 1,
) -> "tuple[Pair, OpenStream]":
    """Load a pair; measure this machine where the options ask for its times.

    Args:
        values: options by field name, completed.
        settings: how much is drafted.
        choices: as `choices.build` makes them.
        client: of an edge that verifies, or None.
        progress: told of the stages.
        at_once: streams that may be decoded beside each other; without an edge, several share the target's passes.

    Returns:
        The pair as this machine needs it, and what opens a stream of one prompt under the choices, or others given.

    Raises:
        GelatoError: a model cannot be had, the edge does not answer, or there is no such meter.
    """
    import gelato_checkpoints
    import gelato_jax
    from gelato_jax.decoding.local import measure_local_system
    from gelato_jax.meter import open_meter

    if client is not None:
        client.info()  # an edge that is not there is named before anything is loaded
    meter = None if values["remote_meter"] is None else open_meter(values["remote_meter"])
    pair = gelato_checkpoints.load_pair(
        values["model"],
        values["draft"],
        weights=values["weights"],
        cache=values["cache"],
        progress=progress.stage,
    )
    if choices["system"] is None:
        cache = gelato_checkpoints.cache_directory() / "local-times"
        choices = {**choices, "system": measure_local_system(pair, settings.shapes, cache, progress.stage)}
    progress.stage("compile", 0, 0)
    if client is None and at_once == 1:
        return pair, lambda prompt, **given: gelato_jax.stream(pair, [prompt], **{**choices, **given})
    from gelato_jax.remote import device
    from gelato_jax.remote.clock import Clock

    if values["remote_clock"]:
        choices = {**choices, "clock": Clock(choices["system"], meter)}
    if values["remote_offline"]:
        choices = {**choices, "offline": True}
    connection = _inside(pair, at_once) if client is None else client
    pair = device.without_weights(pair)
    return pair, partial(device.stream, pair, client=connection, **choices)


def _inside(pair: "Pair", at_once: int) -> "Client":
    """An edge in this process."""
    from gelato_jax.remote.inside import InsideClient
    from gelato_jax.remote.sessions import Sessions

    return InsideClient(Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids, most=at_once))
