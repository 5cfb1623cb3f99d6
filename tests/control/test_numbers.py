"""Settings become arrays; what is no number, not whole or out of range is refused in one line, whatever holds it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import control
from gelato_jax.errors import GelatoError
from gelato_jax.system import Link
from gelato_jax.types import number

HOLDERS = {
    "python": lambda value: value,
    "numpy scalar": np.float32,
    "numpy 0-d": np.array,
    "numpy rows": lambda value: np.array([1.0, value]),
    "jax 0-d": jnp.float32,
    "jax rows": lambda value: jnp.array([[1.0], [value]]),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize(
    ("bad", "words"), [(-1.0, "-1.0, must lie in"), (math.nan, "nan, must lie in"), (math.inf, "inf, must be finite")]
)
def test_every_concrete_value_is_checked(hold, bad, words):
    with pytest.raises(GelatoError, match=f"^speed is {words}") as refused:
        number("speed", hold(bad), low=0.0)
    assert "\n" not in str(refused.value)
    held = hold(bad)
    with pytest.raises(GelatoError, match="speed is"):
        jax.jit(lambda: number("speed", held, low=0.0))()
    assert number("speed", hold(2.0), low=0.0).dtype == jnp.float32


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_infinity_only_where_it_means_something(hold):
    assert np.isinf(np.asarray(number("cap", hold(math.inf), low=0.0, finite=False))).any()
    with pytest.raises(GelatoError, match="inf, must lie in"):
        number("share", hold(math.inf), low=0.0, high=1.0, finite=False)


@pytest.mark.parametrize("bad", ["4", None, True, np.True_, jnp.array(False), 1j, object(), ["4"]])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_what_is_no_number_is_one_line(bad, dtype):
    with pytest.raises(GelatoError, match=r"^speed is .*must be a number$"):
        number("speed", bad, dtype=dtype)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (2.7, "2.7, must be a whole number"),
        (np.float64(0.9), "0.9, must be a whole number"),
        (jnp.array([1.0, 0.5]), "0.5, must be a whole number"),
        (2**40, "1099511627776, must lie in [0, 2147483647]"),
        (math.inf, "inf, must lie in"),
    ],
)
def test_whole_numbers_where_they_are_meant(bad, words):
    with pytest.raises(GelatoError) as refused:
        number("draft_length", bad, low=0, dtype=jnp.int32)
    assert str(refused.value).startswith(f"draft_length is {words}")
    assert int(number("draft_length", 2.0, dtype=jnp.int32)) == 2


def test_truth_values():
    assert bool(number("observed", True, dtype=jnp.bool_))
    with pytest.raises(GelatoError, match="observed is 1, must be True or False"):
        number("observed", 1, dtype=jnp.bool_)


def test_a_tracer_has_no_value_to_check():
    assert float(jax.jit(lambda value: number("speed", value, low=0.0))(-1.0)) == -1.0
    assert jax.vmap(lambda value: number("length", value, low=0, dtype=jnp.int32))(jnp.array([-1, 2])).shape == (2,)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: control.static(2.7), "draft_length is 2.7"),
        (lambda: control.static(True), "draft_length is True"),
        (lambda: control.ratio(penalty_weight=math.inf), "penalty_weight is inf"),
        (lambda: control.ratio(power_budget_w="2"), "power_budget_w is '2'"),
        (lambda: Link.create(bandwidth_hz=1e6, snr=math.inf, rtt_s=0.0), "snr is inf"),
    ],
)
def test_rules_and_links_are_refused_by_name(build, words):
    with pytest.raises(GelatoError, match=words):
        build()


def test_no_cap_and_a_link_without_limit():
    assert np.isinf(control.ratio(power_budget_w=math.inf).params.power_budget_w)
    link = Link.create(bandwidth_hz=math.inf, snr=1.0, rtt_s=0.0)
    assert np.isinf(link.channel().downlink_bps)
