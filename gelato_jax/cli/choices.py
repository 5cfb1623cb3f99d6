"""From option values to the rules and the system of a decode, before anything is loaded."""

from typing import Any

from gelato_jax.cli.options import CONTROLLER_FIELDS, taken_as
from gelato_jax.control.registry import options as options_of
from gelato_jax.errors import GelatoError

_NOMINAL_VOCABULARY = 2**16
"""Token ids, assumed before the model is known: the floor of power knows it only by the bits of one id."""

_PAYLOAD_NUMBER = {
    "top_p": "payload_top_p",
    "top_k": "payload_top_k",
    "quantized": "payload_bits",
    "candidates": "payload_candidates",
}


def build(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Make settings and choices for `gelato_jax.stream`.

    Args:
        values: options by field name, completed.

    Returns:
        `DecodeSettings`, and the choices by name; `system` is None where it must be measured first.

    Raises:
        GelatoError: a name or a combination that cannot run; one line.
    """
    from gelato_jax import control, payloads, system
    from gelato_jax.decoding import DecodeSettings

    settings = DecodeSettings(
        max_draft_length=values["max_draft_length"],
        stream_length=values["stream_length"],
        max_new_tokens=values["max_new_tokens"],
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        seed=values["seed"],
    )
    if any(not stop for stop in values["stop"]):
        raise GelatoError("--stop is empty; give the text to stop at")
    scheme = values["payload"]
    numbers = [values[_PAYLOAD_NUMBER[scheme]]] if scheme in _PAYLOAD_NUMBER else []
    payload = getattr(payloads, scheme)(*numbers)
    controller, modelled = _controller(values), None
    if values["system"] == "modelled":
        modelled = system.preset(values["device"], values["link"], values["edge"])
        rounds = {"vocab_size": _NOMINAL_VOCABULARY, "stream_length": settings.stream_length}
        control.check_power_budget(controller.power_budget_w, modelled, payload, **rounds)
        control.check_energy_budget(controller, modelled, payload, **rounds)
    return settings, {
        "controller": controller,
        "length_exit": control.create(control.LENGTH_EXITS, values["length_exit"]),
        "depth_exit": control.create(control.DEPTH_EXITS, values["depth_exit"]),
        "draft_sampling": control.create(control.DRAFT_SAMPLINGS, values["draft_sampling"]),
        "payload": payload,
        "system": modelled,
    }


def _controller(values: dict[str, Any]) -> Any:
    from gelato_jax import control

    name = values["controller"]
    taken = {field: taken_as(field, name) for field in CONTROLLER_FIELDS}
    if taken["power_budget_w"] and taken["energy_budget_j"]:
        budgets = [values[field] for field in ("power_budget_w", "energy_budget_j")]
        if all(budget is None for budget in budgets):
            raise GelatoError(
                f"--controller {name} needs a budget: give --power-budget-w or --energy-budget-j, "
                "or take --controller ratio"
            )
        if all(budget is not None for budget in budgets):
            raise GelatoError(
                f"--power-budget-w is {budgets[0]:g} and --energy-budget-j {budgets[1]:g}; "
                f"--controller {name} takes one of them: leave one out"
            )
    given = {option: values[field] for field, option in taken.items() if option and values[field] is not None}
    if values["system"] == "local" and "probe_after" in options_of(control.CONTROLLERS, name):
        from gelato_jax.decoding.local import PROBE_AFTER

        given["probe_after"] = PROBE_AFTER
    return control.create(control.CONTROLLERS, name, **given)


def world_name(values: dict[str, Any]) -> str:
    """What the modelled figures are about."""
    if values["system"] == "local":
        return "this machine's own times, without link or energy"
    measured = "; the delay and the edge's times are this clock's" if values.get("remote_clock") else ""
    if values.get("remote_meter"):
        measured += f", joules this machine's ({values['remote_meter']})"
    return f"{values['device']} over {values['link']} to {values['edge']}{measured}"
