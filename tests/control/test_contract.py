"""What every rule must keep, over the registries: a new rule is held to it by its line there."""

import dataclasses
import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import control
from gelato_jax.control import DepthSignal, DraftSignal, default_calibration
from gelato_jax.control.registry import options
from gelato_jax.testing import observation
from gelato_jax.types import CostTable, RoundPlan

G, X = 6, 3
CALIBRATION = default_calibration(num_exits=X)
PLAN = RoundPlan(
    draft_budget=jnp.int32(4),
    token_value=jnp.float32(1.0),
    energy_price=jnp.float32(0.1),
    time_price=jnp.float32(1.0),
    acceptance_rate=jnp.float32(0.5),
    acceptance_level=jnp.float32(0.9),
)


def _build(registry, name):
    """The rule at its defaults, under a budget where it takes one."""
    budget = {"power_budget_w": 1.0} if "power_budget_w" in options(registry, name) else {}
    return control.create(registry, name, **budget)


def _init(rule):
    return rule.init(CALIBRATION) if isinstance(rule, control.Controller) else rule.init()


def _cost_table(rng, most):
    return CostTable(
        time_s=jnp.asarray(0.05 + np.cumsum(rng.uniform(0.001, 0.03, most + 1)), jnp.float32),
        energy_j=jnp.asarray(0.01 + np.cumsum(rng.uniform(0.001, 0.1, most + 1)), jnp.float32),
        uplink_bps=jnp.float32(1e6),
        rtt_s=jnp.float32(0.02),
    )


def _outcome(rng, budget, active=True):
    """A round that drafted some of its budget."""
    drafted = int(rng.integers(0, budget + 1))
    accepted = int(min(drafted, rng.geometric(0.4) - 1))
    return observation(
        drafted=jnp.int32(drafted),
        accepted=jnp.int32(accepted),
        predicted=jnp.float32(0.6 * min(accepted + 1, drafted)),
        tokens=jnp.int32(accepted + 1),
        time_s=jnp.float32(rng.uniform(0.05, 0.3)),
        energy_j=jnp.float32(rng.uniform(0.01, 0.6)),
        active=jnp.array(active),
    )


def _signal(rng, index):
    return DraftSignal(
        entropy=jnp.float32(rng.uniform(0.0, 6.0)),
        exit=jnp.int32(rng.integers(0, X)),
        max_probability=jnp.float32(rng.uniform(0.05, 1.0)),
        index=jnp.int32(index),
        token_s=jnp.float32(0.02),
        token_j=jnp.float32(0.1),
        plan=PLAN,
        calibration=CALIBRATION,
    )


_planned = jax.jit(lambda rule, state, cost_table: rule.plan(state, cost_table))
_learned = jax.jit(lambda rule, state, outcome: rule.update(state, outcome))
_stepped = jax.jit(lambda rule, state, signal: rule.step(state, signal))


@pytest.mark.parametrize("most", [0, G, 32])
@pytest.mark.parametrize("name", control.CONTROLLERS)
def test_a_controller_plans_what_a_round_can_draft(name, most):
    rng, controller = np.random.default_rng(most), _build(control.CONTROLLERS, name)
    state = _init(controller)
    for _ in range(40):
        plan = _planned(controller, state, _cost_table(rng, most))
        assert plan.draft_budget.dtype == jnp.int32
        assert 0 <= int(plan.draft_budget) <= most
        chex.assert_tree_all_finite(plan)
        assert 0 <= float(plan.acceptance_rate) <= 1
        state = _learned(controller, state, _outcome(rng, int(plan.draft_budget)))
        assert 0 <= float(controller.queue(state)) < math.inf
    assert float(controller.power_budget_w) > 0


@pytest.mark.parametrize("name", control.LENGTH_EXITS)
def test_a_length_exit_limits_a_round_and_says_when_it_stops(name):
    rng, rule = np.random.default_rng(0), _build(control.LENGTH_EXITS, name)
    state = _init(rule)
    for budget in (0, 1, 4, G):
        limit = rule.limit(dataclasses.replace(PLAN, draft_budget=jnp.int32(budget)), G)
        assert limit.dtype == jnp.int32
        assert 0 <= int(limit) <= G
        assert (int(limit) == 0) == (budget == 0)
        state = rule.start(state, PLAN)
        for index in range(G):
            state, stop = _stepped(rule, state, _signal(rng, index))
            assert stop.dtype == jnp.bool_
        state = _learned(rule, state, _outcome(rng, G))
        chex.assert_tree_all_finite(state)


STATEFUL = [(control.CONTROLLERS, name) for name in control.CONTROLLERS]
STATEFUL += [(control.LENGTH_EXITS, name) for name in control.LENGTH_EXITS]


@pytest.mark.parametrize(("registry", "name"), STATEFUL, ids=[name for _, name in STATEFUL])
def test_states_are_copies_of_one_form_and_do_not_move_for_a_finished_row(registry, name):
    rng, rule = np.random.default_rng(1), _build(registry, name)
    state = _init(rule)
    held = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((rule, CALIBRATION))}
    assert all(leaf.unsafe_buffer_pointer() not in held for leaf in jax.tree.leaves(state))  # states are donated
    for _ in range(5):
        moved = _learned(rule, state, _outcome(rng, G))
        chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)
        chex.assert_trees_all_equal(_learned(rule, moved, _outcome(rng, G, active=False)), moved)
        state = moved


@pytest.mark.parametrize("name", control.DEPTH_EXITS)
def test_a_depth_exit_ends_at_the_last_exit_and_serves_any_draft_by_default(name):
    rng, rule = np.random.default_rng(2), _build(control.DEPTH_EXITS, name)
    for exit in range(X):
        for _ in range(8):
            signal = DepthSignal(
                entropy=jnp.float32(rng.uniform(0.0, 6.0)),
                exit=jnp.int32(exit),
                survival=jnp.float32(rng.uniform()),
                segment_s=jnp.float32(0.002),
                segment_j=jnp.float32(0.01),
                plan=PLAN,
                calibration=CALIBRATION,
            )
            deeper = rule.deeper(signal)
            assert deeper.dtype == jnp.bool_
            assert not (deeper and exit == X - 1)
    for num_exits in (1, X):
        rule.check(num_exits)


@pytest.mark.parametrize("name", control.DRAFT_SAMPLINGS)
def test_a_sampling_rule_scales_by_something_positive(name):
    scale = jax.vmap(_build(control.DRAFT_SAMPLINGS, name).temperature_scale)(jnp.linspace(0.0, 12.0, 30))
    assert scale.dtype == jnp.float32
    assert np.isfinite(scale).all()
    assert (np.asarray(scale) > 0).all()


EVERY = [
    (registry, name)
    for registry in (control.CONTROLLERS, control.LENGTH_EXITS, control.DEPTH_EXITS, control.DRAFT_SAMPLINGS)
    for name in registry
]


@pytest.mark.parametrize(("registry", "name"), EVERY, ids=[name for _, name in EVERY])
def test_a_rule_is_data_and_structure(registry, name):
    rule = _build(registry, name)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(rule))
    assert hash(jax.tree.structure(rule)) == hash(jax.tree.structure(_build(registry, name)))
    assert jax.tree.structure(jax.tree.map(lambda leaf: leaf + 1, rule)) == jax.tree.structure(rule)


ONE_FILE_AND_ONE_LINE = """
import importlib.util, sys
for name, path in (("registry", {registry!r}), ("aimd", {aimd!r})):
    spec = importlib.util.spec_from_file_location("gelato_jax.control." + name, path)
    module = sys.modules["gelato_jax.control." + name] = importlib.util.module_from_spec(spec)
    if name == "registry":
        spec.loader.exec_module(module)
from gelato_jax.cli import choices, options
from gelato_jax.cli.main import run
assert "jax" not in sys.modules
spec.loader.exec_module(module)
groups = options.InputOptions, options.TextOptions, options.PayloadOptions, options.SystemOptions
for given in ({{}}, {{"draft_length": 2}}):
    values = options.complete(options.ControlOptions(controller="aimd", **given), *(group() for group in groups))
    print("first", int(choices.build(values)[1]["controller"].params))
print("code", run(["generate", "hi", "--controller", "aimd", "--power-budget-w", "2"]))
run(["generate", "--help"])
"""


def test_a_new_controller_is_one_file_and_one_line(tmp_path):
    """CONTRIBUTING's example in a process whose registry has one line more: the command line offers it."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
    section = text[text.index("## Add a controller") :]
    (line,) = re.findall(r'`("aimd": "[\w.]+")`', section)
    aimd, registry = tmp_path / "aimd.py", tmp_path / "registry.py"
    aimd.write_text(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0], "utf-8")
    source = Path(importlib.util.find_spec("gelato_jax.control.registry").origin).read_text("utf-8")
    head = "CONTROLLERS = Registry(\n    {\n"
    assert head in source
    registry.write_text(source.replace(head, f"{head}        {line},\n"), "utf-8")
    code = ONE_FILE_AND_ONE_LINE.format(registry=str(registry), aimd=str(aimd))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--controller {aimd,ratio," in done.stdout, done.stderr
    assert done.stdout.startswith("first 4\nfirst 2\ncode 2\n")
    assert "--power-budget-w has no effect with --controller aimd" in done.stderr
