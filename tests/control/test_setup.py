"""Calibration, names, refusals, and an import that starts no backend."""

import dataclasses
import math
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import control, payloads, system
from gelato_jax.control import acceptance_at, default_calibration, next_acceptance
from gelato_jax.control.calibration import deeper_gain
from gelato_jax.control.registry import options
from gelato_jax.errors import GelatoError
from gelato_jax.types import Calibrations

V = 151_936


def test_default_calibration_is_consistent():
    """Under the assumed exponential entropies, by Monte Carlo: class means, overall mean, next-token table."""
    calibration = default_calibration(num_exits=4, mean_acceptance=0.6)
    entropy = np.random.default_rng(0).exponential((1 / 0.6 - 1) / 0.35, 400_000)
    alpha = np.exp(-0.35 * entropy)
    assert alpha.mean() == pytest.approx(0.6, abs=0.003)
    classes = np.searchsorted(np.asarray(calibration.class_edges), entropy)
    means = np.array([alpha[classes == c].mean() for c in range(8)])
    np.testing.assert_allclose(np.asarray(calibration.deeper_acceptance)[0, :, 0], means, atol=0.01)
    np.testing.assert_allclose(np.asarray(calibration.class_acceptance), np.tile(means, (4, 1)), atol=0.01)
    table = np.asarray(calibration.next_acceptance)
    np.testing.assert_allclose(table, 0.25 * means + 0.75 * 0.6, atol=0.01)
    assert table[classes].mean() == pytest.approx(0.6, abs=0.003)
    deeper = np.asarray(calibration.deeper_acceptance)
    assert np.all(np.diff(deeper, axis=2) >= 0)
    assert np.all((deeper > 0) & (deeper <= 1))


@pytest.mark.parametrize("bad", [{"mean_acceptance": 1.0}, {"num_exits": 0}])
def test_default_calibration_refuses(bad):
    with pytest.raises(ValueError, match="mean_acceptance"):
        default_calibration(**bad)


def test_acceptance_has_the_calibrations_shape_and_the_rows_level():
    calibration = default_calibration(num_exits=2, mean_acceptance=0.6)
    entropy, exit, level = jnp.float32(1.2), jnp.int32(1), jnp.float32(0.5)
    np.testing.assert_allclose(acceptance_at(calibration, entropy, exit, level), 0.5 * np.exp(-0.35 * 1.2), rtol=1e-5)
    np.testing.assert_allclose(
        next_acceptance(calibration, entropy, level), 0.5 * float(calibration.next_acceptance[3]), rtol=1e-5
    )
    assert float(acceptance_at(calibration, jnp.float32(0.0), exit, jnp.float32(1.5))) == 1.0
    row = np.asarray(calibration.deeper_acceptance)[0, 3]
    np.testing.assert_allclose(
        deeper_gain(calibration, entropy, jnp.int32(0), level), 0.5 * (row[1] - row[0]), rtol=1e-4
    )
    assert float(deeper_gain(calibration, entropy, jnp.int32(1), level)) == 0.0


def test_acceptance_is_that_of_the_exit_taken():
    calibration = dataclasses.replace(
        default_calibration(num_exits=3), scale=jnp.array([0.5, 0.7, 0.9]), decay=jnp.array([0.6, 0.4, 0.2])
    )
    exits = jnp.arange(3)
    level = jax.vmap(acceptance_at, (None, None, 0, None))(calibration, jnp.float32(1.5), exits, jnp.float32(1.0))
    np.testing.assert_allclose(level, [0.5 * np.exp(-0.9), 0.7 * np.exp(-0.6), 0.9 * np.exp(-0.3)], rtol=1e-5)


def test_the_calibration_follows_a_traced_temperature():
    chex.clear_trace_counter()
    both = Calibrations(
        greedy=default_calibration(num_exits=2, mean_acceptance=0.7),
        sampled=default_calibration(num_exits=2, mean_acceptance=0.4),
    )
    at = jax.jit(chex.assert_max_traces(n=1)(lambda both, temperature: both.at(temperature)))
    for temperature, chosen in [(0.0, both.greedy), (1e-3, both.sampled), (1.0, both.sampled), (0.0, both.greedy)]:
        chex.assert_trees_all_equal(at(both, jnp.float32(temperature)), chosen)


REGISTRIES = {
    "controllers": control.CONTROLLERS,
    "length exits": control.LENGTH_EXITS,
    "depth exits": control.DEPTH_EXITS,
    "draft samplings": control.DRAFT_SAMPLINGS,
}


def test_create_passes_the_options_on():
    controller = control.create(control.CONTROLLERS, "ratio", power_budget_w=1.5, penalty_weight=3.0)
    assert (float(controller.params.power_budget_w), float(controller.params.penalty_weight)) == (1.5, 3.0)


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_an_option_that_a_rule_does_not_take_is_refused_with_those_it_takes(registry):
    for name in registry:
        with pytest.raises(GelatoError, match=f"^{name} has no option 'power_budget'; it takes ") as refused:
            control.create(registry, name, power_budget=2.0)
        assert all(option in str(refused.value) for option in options(registry, name))


def test_an_option_of_another_rule_is_refused_too():
    with pytest.raises(GelatoError, match="static has no option 'power_budget_w'; it takes draft_length"):
        control.create(control.CONTROLLERS, "static", power_budget_w=2.0)


def test_options_are_those_of_the_constructor_with_their_defaults():
    assert options(control.CONTROLLERS, "static") == {"draft_length": 4}
    assert options(control.LENGTH_EXITS, "none") == {}


@pytest.mark.parametrize("ask", [control.create, options])
def test_unknown_rule_lists_the_known(ask):
    with pytest.raises(GelatoError, match=r"'rato'.*ratio, gelato, gelato_estimated, static"):
        ask(control.CONTROLLERS, "rato")


def test_names_are_known_without_jax_and_rules_without_a_backend():
    code = (
        "import sys; from gelato_jax.control import CONTROLLERS; from gelato_jax import control\n"
        "assert 'ratio' in CONTROLLERS and 'rato' not in CONTROLLERS and len(list(CONTROLLERS)) == len(CONTROLLERS)\n"
        "assert 'jax' not in sys.modules\n"
        "assert CONTROLLERS['ratio'] is control.ratio and 'jax' in sys.modules\n"
        "assert all(getattr(control, name) is not None for name in dir(control))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'rato'"):
        _ = control.rato


SOME = [control.static(), control.ratio(power_budget_w=1.5)]
WATTS = {
    "ratio": (lambda: control.ratio(power_budget_w=1.5), 1.5),
    "ratio, none": (control.ratio, math.inf),
    "gelato": (lambda: control.gelato(power_budget_w=1.5), 1.5),
    "gelato, joules": (lambda: control.gelato(energy_budget_j=0.1), math.inf),
    "gelato_estimated": (lambda: control.gelato_estimated(power_budget_w=1.5), 1.5),
    "flexspec": (lambda: control.create(control.CONTROLLERS, "flexspec", power_budget_w=1.5), 1.5),
    "static": (control.static, math.inf),
    "chosen": (lambda: control.select_controller(SOME, 1), 1.5),
    "not chosen": (
        lambda: control.select_controller(SOME, 0),
        math.inf,
    ),
}


@pytest.mark.parametrize(("build", "watts"), WATTS.values(), ids=WATTS)
def test_a_controller_says_what_power_it_keeps(build, watts):
    assert float(build().power_budget_w) == watts


def test_a_controllers_cap_is_checked_where_it_is_known():
    orin, scheme = system.preset("orin-nano-15w", "5mhz-500m", "h100-7b"), payloads.scalar()

    def check(watts):
        controller = control.ratio(power_budget_w=watts)
        control.check_power_budget(controller.power_budget_w, orin, scheme, vocab_size=V)
        return controller.power_budget_w

    for watts in (0.25, jnp.array([1.0, 0.25])):  # of many devices the lowest
        with pytest.raises(GelatoError, match=r"power_budget_w 0\.25 "):
            check(watts)
    check(math.inf)
    assert float(jax.jit(check)(0.25)) == 0.25  # a tracer has no value yet


@pytest.mark.parametrize(("exit", "num_exits"), [(7, 2), (2, 2), (-3, 2), (1, 1)])
def test_an_exit_that_a_draft_lacks_is_refused(exit, num_exits):
    rule = control.depth_exits.fixed(exit)
    with pytest.raises(GelatoError, match=f"draft with {num_exits} exits is {exit}, must lie in"):
        rule.check(num_exits)
    with pytest.raises(GelatoError, match=f"is {exit}, must"):
        control.select_depth_exit([control.depth_exits.priced(), rule], 0).check(num_exits)


def test_an_exit_that_a_draft_has_is_not():
    for exit in (-2, -1, 0, 1):
        control.depth_exits.fixed(exit).check(2)
    jax.jit(lambda exit: control.depth_exits.fixed(exit).check(2))(7)
    for name in control.DEPTH_EXITS:
        control.create(control.DEPTH_EXITS, name).check(1)


def test_a_cap_under_the_idle_floor_is_refused_with_both_numbers():
    orin = system.preset("orin-nano-15w", "5mhz-500m", "h100-7b")
    scheme = payloads.scalar()
    floor = control.power_floor_w(orin, scheme, vocab_size=V)
    assert floor == pytest.approx(0.4, abs=0.001)  # idle; the verdict's 26 bits take a microsecond
    with pytest.raises(ValueError, match=r"power_budget_w 0\.25 .* 0\.4 W"):
        control.check_power_budget(0.25, orin, scheme, vocab_size=V)
    for enough in (0.5, math.inf):
        control.check_power_budget(enough, orin, scheme, vocab_size=V)


@pytest.mark.parametrize("rule", [control.gelato, control.gelato_estimated])
def test_a_budget_under_an_idle_round_is_refused_with_both_numbers(rule):
    orin, scheme = system.preset("orin-nano-15w", "5mhz-500m", "h100-7b"), payloads.scalar()

    def check(joules):
        control.check_energy_budget(rule(energy_budget_j=joules), orin, scheme, vocab_size=V)
        return joules

    with pytest.raises(GelatoError, match=r"energy_budget_j 0\.001 .* J that a round costs") as refused:
        check(0.001)
    floor = float(re.search(r"above (\S+) J", str(refused.value))[1])
    for enough in (1.01 * floor, math.inf):
        check(enough)
    with pytest.raises(GelatoError, match="energy_budget_j"):
        check(0.99 * floor)
    with pytest.raises(GelatoError, match=r"energy_budget_j 0\.001 "):  # of many devices the lowest
        check(jnp.array([1.0, 0.001]))
    assert float(jax.jit(check)(0.001)) == pytest.approx(0.001)  # a tracer has no value yet


def test_other_controllers_have_no_budget_a_round():
    orin, scheme = system.preset("orin-nano-15w", "5mhz-500m", "h100-7b"), payloads.scalar()
    for controller in (control.static(), control.ratio(power_budget_w=2.0), control.gelato(power_budget_w=2.0)):
        control.check_energy_budget(controller, orin, scheme, vocab_size=V)


def test_import_starts_no_backend():
    code = (
        "import gelato_jax.control, gelato_jax.system; from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
