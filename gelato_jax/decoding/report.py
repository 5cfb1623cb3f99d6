"""The figures of a finished decode, on the host: plain numbers for a report."""

from typing import Any

from gelato_jax.decoding.generation import Generation


def report(generation: Generation, row: int = 0) -> dict[str, Any]:
    """Sum up one prompt's decode: counts, and the modelled time, energy and traffic of its rounds.

    Rates are sums over sums (tokens of all rounds over seconds of all rounds). The prompt and the token that comes
    with it are in `new_tokens`, `prefill_s`, `prefill_j` and `mean_power_w`, which a cap is about, alone.

    Args:
        generation: what `generate` or `Stream.generation` returned.
        row: which prompt.

    Returns:
        Name -> int or float; seconds, joules and bits as the names say. A rate without anything to
        divide by is None.
    """
    totals = generation.totals

    def total(name: str) -> float:
        """A compensated sum, in double precision."""
        pair = getattr(totals, name)
        return float(pair.high[row]) + float(pair.low[row])

    rounds, passes, drafted, accepted, tokens = (
        int(getattr(totals, name)[row]) for name in ("rounds", "passes", "drafted", "accepted", "tokens")
    )
    time_s, energy_j, prompt_s, prompt_j = map(total, ("time_s", "energy_j", "prompt_s", "prompt_j"))
    return {
        "new_tokens": len(generation.tokens[row]),
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": _ratio(accepted, drafted),
        "tokens_per_round": _ratio(tokens, rounds),
        "target_passes_per_token": _ratio(passes, tokens),
        "drafted_by_exit": [int(count) for count in totals.exits[row]],
        "caught_up": int(totals.caught_up[row]),
        "modelled_s": time_s,
        "modelled_tokens_per_s": _ratio(tokens, time_s),
        "energy_j": energy_j,
        "energy_per_token_j": _ratio(energy_j, tokens),
        "mean_power_w": _ratio(energy_j + prompt_j, time_s + prompt_s),
        "uplink_bits_per_token": _ratio(total("uplink_bits"), tokens),
        "downlink_bits_per_token": _ratio(total("downlink_bits"), tokens),
        "mean_queue_j": _ratio(total("queue_j"), rounds),
        "final_queue_j": float(generation.final_queue_j[row]),
        "prefill_s": prompt_s,
        "prefill_j": prompt_j,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
