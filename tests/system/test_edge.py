"""One table for formulas and measurements."""

import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.system import Edge


def test_line():
    edge = Edge.line(10e-3, token_s=1e-3, rows=3, row_s=2e-3)
    windows = np.array([1, 2, 9, 33, 34, 200])
    np.testing.assert_allclose(edge.verify_s(jnp.asarray(windows)), 10e-3 + 1e-3 * (windows - 1) + 4e-3, rtol=1e-4)


def test_measured_windows_are_padded_up_and_continued():
    edge = Edge.measured({1: 1.0, 3: 2.0, 5: 3.0})
    windows = jnp.array([1, 2, 3, 4, 5, 6, 40])
    np.testing.assert_allclose(edge.verify_s(windows), [1.0, 2.0, 2.0, 3.0, 3.0, 3.5, 20.5], rtol=1e-5)


def test_windows_beyond_the_table_follow_the_last_two_measurements():
    """The table's own last entries are 17 to 33 padded up to one time, whose slope is 0."""
    edge = Edge.measured({1: 1.0, 17: 2.0, 33: 4.0})
    windows = jnp.array([17, 18, 33, 34, 40, 65])
    np.testing.assert_allclose(edge.verify_s(windows), [2.0, 4.0, 4.0, 4.125, 4.875, 8.0], rtol=1e-6)
    np.testing.assert_allclose(Edge.measured({1: 1.0, 17: 2.0}).verify_s(jnp.array([33, 40])), [3.0, 3.4375], rtol=1e-6)


def test_one_measurement_and_falling_ones_have_no_slope():
    for edge, seconds in ((Edge.measured({1: 1.5}), 1.5), (Edge.measured({1: 2.0, 33: 1.0}), 1.0)):
        np.testing.assert_allclose(edge.verify_s(jnp.array([33, 99])), seconds)


@pytest.mark.parametrize("windows", [{}, {2: 1.0}, {1: 1.0, 99: 2.0}, {1: 0.0}])
def test_refuses_bad_measurements(windows):
    with pytest.raises(ValueError, match="measured window"):
        Edge.measured(windows)


@pytest.mark.parametrize("bad", [{"step_s": 0.0}, {"step_s": 1.0, "rows": 0}])
def test_refuses_bad_lines(bad):
    with pytest.raises(ValueError, match="step_s"):
        Edge.line(**bad)


def test_between_sizes_a_window_is_padded_or_lies_on_a_line():
    windows = {1: 1.0, 3: 2.0, 5: 4.0}
    padded, lines = (Edge.measured(windows, padded=padded).verify_s(jnp.arange(1, 7)) for padded in (True, False))
    np.testing.assert_allclose(padded, [1.0, 2.0, 2.0, 4.0, 4.0, 5.0])
    np.testing.assert_allclose(lines, [1.0, 1.5, 2.0, 3.0, 4.0, 5.0])
