"""Records as JAX sees them."""

import jax
import pytest

from gelato_jax import payloads
from gelato_jax.types import record, static


@record
class One:
    value: object


@record
class Other:
    value: object


@record
class Sized:
    value: object
    size: int = static()


def test_records_of_different_classes_are_different_structures():
    """Equal ones would let `jit` run the program of another class, where hashes happen to collide."""
    assert jax.tree.structure(One(value=1)) == jax.tree.structure(One(value=2))
    assert jax.tree.structure(One(value=1)) != jax.tree.structure(Other(value=1))
    schemes = payloads.full(), payloads.scalar(), payloads.seeded(), payloads.top_k(5), payloads.quantized(5)
    structures = [jax.tree.structure(scheme) for scheme in schemes]
    assert all(one != other for index, one in enumerate(structures) for other in structures[:index])


def test_static_fields_are_structure_and_the_others_leaves():
    made = Sized(value=1.5, size=2)
    assert jax.tree.leaves(made) == [1.5]
    assert jax.tree.structure(made) != jax.tree.structure(Sized(value=1.5, size=3))
    assert jax.tree.map(lambda leaf: leaf + 1, made) == Sized(value=2.5, size=2)
    ((path, _),) = jax.tree_util.tree_leaves_with_path(made)
    assert jax.tree_util.keystr(path) == ".value"
    with pytest.raises(TypeError, match="size"):
        Sized(value=1.0)  # type: ignore[call-arg]
