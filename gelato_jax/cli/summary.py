"""The end of `gelato generate`: everything as a report, and the few figures a reader wants as text."""

import dataclasses
import platform
from typing import Any

from gelato_jax.cli.choices import world_name
from gelato_jax.cli.decode import Answer


def full_report(answer: Answer, settings: dict[str, Any]) -> dict[str, Any]:
    """All that `--json` writes.

    Args:
        answer: the decoded prompt.
        settings: options by field name.

    Returns:
        Wall-clock figures are named `wall_`, `first_token_s` and `compile_s`; times, energies and
        traffic otherwise are modelled. Per-token figures count the tokens of rounds, without the
        one that the prefill gives; modelled ones count those, too, that the last round gave after
        a stop string, for they were paid for.
    """
    import flax
    import jax

    import gelato_jax

    figures = gelato_jax.report(answer.generation)
    round_tokens = figures["new_tokens"] - 1
    return {
        "text": answer.text,
        "end": answer.end,
        "token_ids": answer.generation.tokens[0],
        "prompt_tokens": answer.prompt_tokens,
        **figures,
        "wall_s": answer.wall_s,
        "wall_tokens_per_s": round_tokens / answer.wall_s if answer.wall_s else None,
        "first_token_s": answer.first_token_s,
        "compile_s": answer.compile_s,
        "remote": None
        if answer.traffic is None
        else {**dataclasses.asdict(answer.traffic), "alone_from": answer.alone_from},
        "controller": settings["controller"],
        "settings": settings,
        "versions": {
            "gelato_jax": gelato_jax.__version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "python": platform.python_version(),
        },
    }


def summary(report: dict[str, Any], settings: dict[str, Any]) -> str:
    """The few figures that matter, wall clock and model in blocks of their own."""
    rounds, drafted = report["rounds"], report["drafted"]
    shown = _Shown(report)
    here = [
        f"{shown('wall_tokens_per_s', '.1f')} tokens/s: {report['new_tokens']} tokens, {rounds} rounds in "
        f"{shown('wall_s', '.2f')} s",
        f"first token after {shown('first_token_s', '.1f')} s; compiling, or loading compiled programs, took "
        f"{shown('compile_s', '.1f')} s",
    ]
    modelled = [
        f"{shown('modelled_tokens_per_s', '.1f')} tokens/s, {shown('energy_per_token_j', '.3g')} J/token, "
        f"{shown('mean_power_w', '.3g')} W; before that the prompt: {shown('prefill_s', '.2f')} s, "
        f"{shown('prefill_j', '.2f')} J",
        f"{shown('uplink_bits_per_token', '.0f')} bits/token up, {shown('downlink_bits_per_token', '.0f')} down",
        f"{report['accepted']} of {drafted} drafted tokens accepted ({shown('acceptance_rate', '.0%')}), "
        f"{shown('tokens_per_round', '.2f')} tokens a round, {shown('target_passes_per_token', '.2f')} passes of the "
        f"target a token; mean queue {shown('mean_queue_j', '.3g')} J",
    ]
    if (traffic := report["remote"]) is not None:
        here.append(_remote_line(traffic, settings["remote"], report))
    lines = ["", "measured on this machine", *(f"  {line}" for line in here)]
    lines += ["", f"modelled: {world_name(settings)}", *(f"  {line}" for line in modelled)]
    return "\n".join(lines)


def _remote_line(traffic: dict[str, Any], address: str, report: dict[str, Any]) -> str:
    """What was measured of the edge's calls, and of this machine's joules."""
    rounds, messages = max(traffic["rounds"], 1), max(traffic["messages"], 1)
    line = (
        f"edge {address}: the answers to a message took {1e3 * traffic['waited_s'] / messages:.1f} ms, "
        f"{1e3 * traffic['edge_s'] / messages:.1f} of them at the edge; "
        f"{traffic['sent_bytes'] / rounds:.0f} bytes up, {traffic['received_bytes'] / rounds:.0f} down a round"
    )
    if traffic["device_factor"] is not None:
        drew_j, tokens, factor = traffic["metered_j"], max(report["new_tokens"] - 1, 1), traffic["device_factor"]
        line += f"; this machine drew {drew_j:.3g} J, {drew_j / tokens:.3g} a token, {factor:.2f} times the preset's"
    if traffic["alone_from"] is not None:
        line += f"; it stayed away, and from token {traffic['alone_from']} on THE DRAFT WROTE ALONE"
    troubles = f"; {traffic['retries']} calls again, {traffic['reopened']} sessions reopened"
    return line + troubles if traffic["retries"] or traffic["reopened"] else line


class _Shown:
    """A report's numbers as text; "-" where there was nothing to divide by."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._report = report

    def __call__(self, name: str, form: str) -> str:
        value = self._report[name]
        return "-" if value is None else format(value, form)
