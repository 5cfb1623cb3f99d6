"""Refusing a power cap that no policy can keep."""

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gelato_jax.errors import GelatoError
from gelato_jax.payloads import Payload, Vocabularies
from gelato_jax.system import System
from gelato_jax.types import AcceptanceForecast


def power_floor_w(system: System, payload: Payload, *, vocab_size: int) -> float:
    """Mean device power of a round that drafts nothing, on the mean channel: idle, and receiving the answer.

    Args:
        system: of one row.
        payload: the scheme.
        vocab_size: target ids.

    Returns:
        Watts.
    """
    cost_table = system.cost_table(
        system.link.channel(),
        payload,
        Vocabularies(target=vocab_size, draft=vocab_size),
        work=1.0,
        catch_up=0.0,
        acceptance=AcceptanceForecast.independent(1.0, 0),
        support=0.0,
    )
    return float(cost_table.energy_j[0] / cost_table.time_s[0])


def check_power_budget(power_budget_w: ArrayLike, system: System, payload: Payload, *, vocab_size: int) -> None:
    """Refuse a cap under the power of a round that drafts nothing. On the host, before compiling.

    Args:
        power_budget_w: the cap, `Controller.power_budget_w`; inf for none. A tracer is taken as it is.
        system: of one row.
        payload: the scheme.
        vocab_size: target ids.

    Raises:
        GelatoError: no policy can keep the cap; names the cap and the floor.
    """
    if isinstance(power_budget_w, Tracer) or np.isinf(power_budget_w).all():
        return
    cap, floor = float(np.asarray(power_budget_w).min()), power_floor_w(system, payload, vocab_size=vocab_size)
    if cap < floor:
        raise GelatoError(
            f"power_budget_w {cap:g} is under the {floor:.3g} W that the device draws "
            f"without drafting at all: raise it above {floor:.3g} W"
        )
