"""From option values to the rules and the system of a decode, before anything is loaded."""

from typing import Any

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
        values: options by field name, settled.

    Returns:
        `DecodeSettings`, and the choices by name; `system` is None where it must be measured first.

    Raises:
        ValueError: a name or a combination that cannot run; one line.
    """
    from gelato_jax import control, payloads, system
    from gelato_jax.decoding import DecodeSettings

    settings = DecodeSettings(
        max_draft_length=values["max_draft_length"],
        max_new_tokens=values["max_new_tokens"],
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        seed=values["seed"],
    )
    if any(not stop for stop in values["stop"]):
        raise ValueError("--stop is empty; give the text to stop at")
    scheme = values["payload"]
    numbers = [values[_PAYLOAD_NUMBER[scheme]]] if scheme in _PAYLOAD_NUMBER else []
    payload = getattr(payloads, scheme)(*numbers)
    modelled = None
    if values["system"] == "modelled":
        modelled = system.preset(values["device"], values["link"], values["edge"])
        if values["power_budget_w"] is not None:
            control.check_power_budget(values["power_budget_w"], modelled, payload, vocab_size=_NOMINAL_VOCABULARY)
    return settings, {
        "controller": _controller(values),
        "length_exit": control.create(control.LENGTH_EXITS, values["length_exit"]),
        "depth_exit": control.create(control.DEPTH_EXITS, values["depth_exit"]),
        "draft_sampling": control.create(control.DRAFT_SAMPLINGS, values["draft_sampling"]),
        "payload": payload,
        "system": modelled,
    }


def _controller(values: dict[str, Any]) -> Any:
    from gelato_jax import control

    name = values["controller"]
    if name == "gelato" and values["power_budget_w"] is None:
        raise ValueError("--controller gelato needs a cap on power: give --power-budget-w, or take --controller ratio")
    return control.create(
        control.CONTROLLERS,
        name,
        power_budget_w=values["power_budget_w"],
        penalty_weight=values["penalty_weight"],
        draft_length=values["draft_length"],
        initial=values["draft_length"],
    )


def world_name(values: dict[str, Any]) -> str:
    """What the modelled figures are about."""
    if values["system"] == "local":
        return "this machine's own step times, without link or energy"
    return f"{values['device']} over {values['link']} to {values['edge']}"
