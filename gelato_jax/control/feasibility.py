"""Refusing a budget that no policy can keep."""

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller
from gelato_jax.control.lyapunov import LyapunovParams
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import Payload, Vocabularies
from gelato_jax.system import System
from gelato_jax.types import AcceptanceForecast


def power_floor_w(system: System, payload: Payload, *, vocab_size: int, stream_length: int = 1) -> float:
    """Mean device power of a round that drafts nothing, on the mean channel: idle, and receiving the answer.

    Args:
        system: of one row.
        payload: the scheme.
        vocab_size: target ids.
        stream_length: tokens of such a round.

    Returns:
        Watts.
    """
    time_s, energy_j = _idle_round(system, payload, vocab_size, stream_length)
    return energy_j / time_s


def check_power_budget(
    power_budget_w: ArrayLike, system: System, payload: Payload, *, vocab_size: int, stream_length: int = 1
) -> None:
    """Refuse a cap under the power of a round that drafts nothing. On the host, before compiling.

    Args:
        power_budget_w: the cap, `Controller.power_budget_w`; inf for none. A tracer is taken as it is.
        system: of one row.
        payload: the scheme.
        vocab_size: target ids.
        stream_length: tokens of such a round.

    Raises:
        GelatoError: no policy can keep the cap; names the cap and the floor.
    """
    if isinstance(power_budget_w, Tracer) or np.isinf(power_budget_w).all():
        return
    cap = float(np.asarray(power_budget_w).min())
    floor = power_floor_w(system, payload, vocab_size=vocab_size, stream_length=stream_length)
    if cap < floor:
        raise GelatoError(
            f"power_budget_w {cap:g} is under the {floor:.3g} W that the device draws "
            f"without drafting at all: raise it above {floor:.3g} W"
        )


def check_energy_budget(
    controller: Controller, system: System, payload: Payload, *, vocab_size: int, stream_length: int = 1
) -> None:
    """Refuse a budget of joules a round under what a round costs that drafts nothing. On the host, before compiling.

    Args:
        controller: whose budget counts; one with a cap on power, or with none, passes, as does a tracer.
        system: of one row.
        payload: the scheme.
        vocab_size: target ids.
        stream_length: tokens of such a round.

    Raises:
        GelatoError: no policy can keep the budget; names the budget and the floor.
    """
    params = controller.params
    if not isinstance(params, LyapunovParams) or isinstance(params.energy_budget_j, Tracer):
        return
    budgets = np.asarray(params.energy_budget_j)
    budgets = budgets[(budgets > 0) & np.isfinite(budgets)]  # 0 where the cap is on power
    if not budgets.size:
        return
    _, floor = _idle_round(system, payload, vocab_size, stream_length)
    if budgets.min() < floor:
        raise GelatoError(
            f"energy_budget_j {budgets.min():g} is under the {floor:.3g} J that a round costs the device "
            f"without drafting at all: raise it above {floor:.3g} J"
        )


def _idle_round(system: System, payload: Payload, vocab_size: int, stream_length: int) -> tuple[float, float]:
    """Seconds and device joules of a round that drafts nothing, on the mean channel."""
    cost_table = system.cost_table(
        system.link.channel(),
        payload,
        Vocabularies(target=vocab_size, draft=vocab_size),
        work=1.0,
        catch_up=0.0,
        acceptance=AcceptanceForecast.independent(1.0, 0),
        support=0.0,
        stream_length=stream_length,
    )
    return float(cost_table.time_s[0]), float(cost_table.energy_j[0])
