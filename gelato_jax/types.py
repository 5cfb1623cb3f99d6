"""Records that carry arrays between the floors of a decode round.

Every record is a frozen dataclass registered as a JAX pytree. One *row* is one device with one
request; the records of `control` and `system` describe one row (scalars) and are `vmap`-ed over
rows by `decoding` and `simulation`.

Dimension letters, used in every docstring of the project:

    B  rows (devices)            S  cache slots              T  tokens of one forward window
    G  max_draft_length          V  target vocabulary        U  draft vocabulary (U <= V)
    D  hidden size               N  query heads              K  key/value heads
    H  head dimension            F  MLP size                 L  layers
    X  exits of a draft          C  entropy classes of a calibration

This module stays out of jaxtyping's import hook: JAX rebuilds records with non-array leaves.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from gelato_jax.errors import GelatoError

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen keyword-only dataclass and a JAX pytree.

    A field marked `static()` becomes part of the tree's structure (it must be hashable, and
    changing it recompiles); every other field is data.

    Not by `jax.tree_util.register_dataclass`: structures of two classes that it registered compare equal where their
    fields do (jaxlib 0.10.2), and `jit` then runs, where hashes collide, the program of another class.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    meta = tuple(field.name for field in fields if field.metadata.get("static"))
    data = tuple(field.name for field in fields if not field.metadata.get("static"))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    # Every call of a compiled function goes through these, often with cold caches: no loop, no `__init__`.
    values_of, chosen_of = _getter(data), _getter(meta)

    def flatten(value: _T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return values_of(value), chosen_of(value)

    def flatten_with_keys(value: _T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, chosen = flatten(value)
        return tuple(zip(keys, children, strict=True)), chosen

    def unflatten(chosen: tuple[Any, ...], children: Any) -> _T:
        value = object.__new__(cls)
        value.__dict__.update(zip(data, children, strict=True))
        value.__dict__.update(zip(meta, chosen, strict=True))
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives some fields of a record as a tuple."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return (lambda value: (getattr(value, names[0]),)) if names else lambda value: ()


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of a record's structure, not of its data."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def _unless_given(value: Any) -> Any:
    """A dataclass field of an array, that is a plain value where nothing was observed."""
    return dataclasses.field(default=value)


def number(
    name: str,
    value: ArrayLike,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    dtype: Any = jnp.float32,
    finite: bool = True,
) -> Array:
    """Turn a setting into an array, so that changing it never recompiles.

    Args:
        name: what the user calls it; for the error.
        value: a number, or an array of them of any shape. A tracer has no value yet and is taken as it is.
        low: smallest legal value.
        high: largest legal value.
        dtype: type of the result; an integer type takes whole numbers alone (2.0 is one), `bool` truth values alone.
        finite: False where infinity means something, such as no cap.

    Returns:
        `value` as an array.

    Raises:
        GelatoError: a value is no number, NaN, outside [low, high], infinite, or not whole where it must be.
    """
    if not isinstance(value, Tracer):
        _check_number(name, value, low, high, jnp.dtype(dtype), finite)
    return jnp.asarray(value, dtype)


def _check_number(name: str, value: Any, low: float, high: float, dtype: Any, finite: bool) -> None:
    """Refuse, by its first bad value, what `number` cannot take."""
    truth = dtype == jnp.bool_
    given = np.asarray(value)
    kinds = (jnp.bool_,) if truth else (jnp.integer, jnp.floating)
    if not any(jnp.issubdtype(given.dtype, kind) for kind in kinds):
        raise GelatoError(f"{name} is {value!r}, must be {'True or False' if truth else 'a number'}")
    if truth:
        return
    whole = jnp.issubdtype(dtype, jnp.integer)
    if whole:
        low, high = max(low, jnp.iinfo(dtype).min), min(high, jnp.iinfo(dtype).max)
    values = given.astype(np.float64)
    bad, must = ~((low <= values) & (values <= high)), f"lie in [{low:.10g}, {high:.10g}]"  # NaN is in no range
    if whole and not bad.any():
        bad, must = values % 1 != 0, "be a whole number"
    elif finite and not bad.any():
        bad, must = abs(values) > jnp.finfo(dtype).max, "be finite"
    if bad.any():
        raise GelatoError(f"{name} is {given.ravel()[bad.argmax()]}, must {must}")


def powers(base: Array, most: int) -> Array:
    """base^0 .. base^most, `[most + 1]`, for a base in 0..1; by exponentials, which vectorise as `pow` does not."""
    exponent = jnp.arange(most + 1, dtype=jnp.float32)
    return jnp.where(exponent > 0, jnp.exp(exponent * jnp.log(base)), 1.0)


def masked(active: Array, tree: _T) -> _T:
    """`tree` for a row that is active, zeros for one that is not."""
    return jax.tree.map(lambda leaf: jnp.where(active, leaf, jnp.zeros_like(leaf)), tree)


@record
class Compensated:
    """A running sum in two float32: a total whose rounding errors do not accumulate.

    In plain float32 the sums of a long run drift by joules after 3e5 rounds. Terms must be finite.
    """

    high: Array  # [] the sum, rounded
    low: Array  # [] what `high` misses

    @classmethod
    def zero(cls) -> "Compensated":
        """The empty sum."""
        return cls(high=jnp.zeros((), jnp.float32), low=jnp.zeros((), jnp.float32))

    def add(self, term: Array | float) -> "Compensated":
        """The sum after one more term (Knuth's two-sum, then renormalised)."""
        total = self.high + term
        shift = total - self.high
        low = self.low + ((self.high - (total - shift)) + (term - shift))
        high = total + low
        return Compensated(high=high, low=low - (high - total))

    @property
    def value(self) -> Array:
        """The sum as one float32."""
        return self.high


KNOWN_POSITIONS = 12
"""P of a calibration: positions of a round whose conditional acceptance is known."""

_STORED_NAMES = {"conditional_acceptance": "streak_acceptance"}
"""Fields of a calibration that files know by another name: drafts and recordings were stored under it."""


@record
class Calibration:
    """What a draft's entropy says about its acceptance; kept with the draft's checkpoint.

    The parametric form is alpha(H) = min(1, scale * exp(-decay * H)) at each exit, H in nats
    (arXiv 2605.10124 as reported: scale 1, decay 0.35 for the Qwen2.5 pair). `class_acceptance` is
    the same expectation without a form: what the curve is measured against.
    """

    scale: Array  # [X] a, acceptance at zero entropy
    decay: Array  # [X] -b, 1/nat, >= 0
    mean_acceptance: Array  # [] at the deepest exit, averaged over tokens: the estimator's prior mean
    class_edges: Array  # [C-1] nats, ascending: class of H = number of edges below H
    class_acceptance: Array  # [X, C] E[acceptance | class of H] at each exit, never rising with the class
    next_acceptance: Array  # [C] E[alpha(H_next) | class of H]
    deeper_acceptance: Array  # [X, C, X] E[acceptance at exit e' | class of H at exit e]
    conditional_acceptance: Array  # [P] of a round's i-th draft, all before it accepted; the last holds beyond P

    @staticmethod
    def stored_name(field: str) -> str:
        """What a field is called in files."""
        return _STORED_NAMES.get(field, field)

    def stored(self) -> dict[str, Array]:
        """The fields by their names in files."""
        return {self.stored_name(field): value for field, value in vars(self).items()}

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> "Calibration":
        """A calibration of what `stored` gave.

        Raises:
            KeyError: a field is missing.
        """
        return cls(**{field.name: values[cls.stored_name(field.name)] for field in dataclasses.fields(cls)})


def _distribution_at(temperature: Array, greedy: _T, sampled: _T) -> _T:
    """`greedy` at temperature 0, else `sampled`: records of like shapes, chosen as data."""
    return jax.tree.map(lambda cold, warm: jnp.where(temperature > 0, warm, cold), greedy, sampled)


@record
class Calibrations:
    """A draft's calibrations, of like shapes: under greedy decoding, where one draft token can be right, and else."""

    greedy: Calibration  # acceptance: the draft's likeliest token is the target's
    sampled: Calibration  # acceptance: 1 - TV(p, q), at temperature 1

    def at(self, temperature: Array) -> Calibration:
        """The calibration that holds at a temperature, which may be traced; 0 is greedy."""
        return _distribution_at(temperature, self.greedy, self.sampled)


@record
class RepeatOdds:
    """How much a draft believes in a token that followed the same last tokens before; kept with its checkpoint.

    Index m - 1 is for m tokens that repeat, up to M of them. The log odds z of the repeated token
    under the draft become slope * z + offset; a token that the draft's head lacks has the chance `unseen`.
    """

    slope: Array  # [X, M]
    offset: Array  # [X, M]
    unseen: Array  # [M]

    @property
    def longest(self) -> int:
        """M, static."""
        return self.unseen.shape[-1]


@record
class RepeatOddsSet:
    """A draft's odds of repeats, of like shapes: under greedy decoding and else."""

    greedy: RepeatOdds
    sampled: RepeatOdds

    def at(self, temperature: Array) -> RepeatOdds:
        """The odds that hold at a temperature, which may be traced; 0 is greedy."""
        return _distribution_at(temperature, self.greedy, self.sampled)


@record
class AcceptanceForecast:
    """What a row's next drafts are expected to bring, whatever their entropies."""

    rate: Array  # [] acceptance of a draft after accepted ones, averaged over drafts
    survival: Array  # [G+1] chance that a round's first i drafts are all accepted; 1 at i = 0

    @classmethod
    def independent(cls, rate: ArrayLike, max_draft_length: int) -> "AcceptanceForecast":
        """Drafts that are accepted independently: survival alpha^i.

        Args:
            rate: [] alpha.
            max_draft_length: G.
        """
        rate = jnp.asarray(rate, jnp.float32)
        return cls(rate=rate, survival=powers(rate, max_draft_length))

    @property
    def max_draft_length(self) -> int:
        """G, static."""
        return self.survival.shape[-1] - 1

    @property
    def tokens(self) -> Array:
        """[G+1] expected tokens of a round by draft length, its last token included."""
        return jnp.cumsum(self.survival, axis=-1)


@record
class CostTable:
    """What a round would cost, as known at its start: the expectation for every draft length.

    Index g of the tables is the number of drafted tokens, 0..G.
    """

    time_s: Array  # [G+1] expected seconds of a round, waiting included
    energy_j: Array  # [G+1] expected device joules of a round, idle included
    uplink_bps: Array  # [] channel state this round
    rtt_s: Array  # []
    catch_up_s: Array = _unless_given(0.0)  # [] seconds of feeding the draft what it has not seen; not in `time_s`
    catch_up_j: Array = _unless_given(0.0)  # [] joules of that; not in `energy_j`
    unread: Array = _unless_given(False)  # [] bool: rounds with drafts bear a share of reading the prompt
    remaining: Array = _unless_given(1)  # [] int32 tokens that the request may still bring
    stream_length: Array = _unless_given(1)  # [] int32 tokens of a round without drafts: the target's alone

    @property
    def passes(self) -> Array:
        """[G+1] float32 windows that the target scores in a round, by draft length."""
        drafted = jnp.arange(self.time_s.shape[0])
        return jnp.where(drafted > 0, 1.0, jnp.asarray(self.stream_length, jnp.float32))

    def tokens(self, forecast: AcceptanceForecast) -> Array:
        """[G+1] expected tokens of a round by draft length; without drafts, as many as it asks for."""
        return forecast.tokens.at[0].set(jnp.asarray(self.stream_length, jnp.float32))


@record
class RoundPlan:
    """A controller's decision for one round of one row, and the prices behind it."""

    draft_budget: Array  # [] int32, 0..G
    token_value: Array  # [] worth of one expected token (V in `ratio`)
    energy_price: Array  # [] worth of one joule (Q)
    time_price: Array  # [] worth of one second (V*theta - Q*power_budget in `ratio`)
    acceptance_rate: Array  # [] the row's current estimate of per-token acceptance
    # Set for you. Levels are of the row, as a share of what the calibration says.
    acceptance_level: Array | float = 1.0  # [] acceptance, given the drafts' entropies
    rejection_level: Array | float = 1.0  # [] rejections, given the drafts' positions in their rounds
    stream_length: Array = _unless_given(1)  # [] int32 tokens asked for where none is drafted, or still to come


@record
class RoundCost:
    """Seconds and device joules of one round of one row, by cause."""

    draft_s: Array
    catch_up_s: Array  # feeding the draft's cache the tokens it has not seen
    uplink_s: Array
    edge_s: Array
    downlink_s: Array
    propagation_s: Array  # two-way
    draft_j: Array
    catch_up_j: Array
    transmit_j: Array
    receive_j: Array
    idle_j: Array  # the device waits: uplink, edge, downlink, propagation

    @classmethod
    def total(cls, time_s: ArrayLike, energy_j: ArrayLike) -> "RoundCost":
        """A cost whose causes are not told apart: waiting, all of it."""
        zero = {field.name: jnp.zeros((), jnp.float32) for field in dataclasses.fields(cls)}
        seconds, joules = jnp.asarray(time_s, jnp.float32), jnp.asarray(energy_j, jnp.float32)
        return cls(**{**zero, "edge_s": seconds, "idle_j": joules})

    @property
    def time_s(self) -> Array:
        """Seconds of the round: its parts follow one another."""
        parts = (self.draft_s, self.catch_up_s, self.uplink_s, self.edge_s, self.downlink_s)
        return sum(parts, start=self.propagation_s)

    @property
    def energy_j(self) -> Array:
        """Device joules of the round."""
        parts = (self.draft_j, self.catch_up_j, self.transmit_j, self.receive_j)
        return sum(parts, start=self.idle_j)


@record
class Observation:
    """What one round of one row did, cost and showed: what rules learn from and reports are made of.

    Counts are of what entered the text: accepted drafts after an end of sequence or the limit are not among them.
    A row that is finished, or whose logits were no numbers, has zeros.
    """

    active: Array  # [] bool; False for a finished row: no rule's state may move
    drafted: Array  # [] int32 tokens sent to the edge
    accepted: Array  # [] int32 draft tokens accepted
    rejected: Array  # [] bool a draft was refused, after `accepted` ones
    predicted: Array  # [] acceptance by the calibration, summed over the drafts that were tested
    tokens: Array  # [] int32 tokens emitted
    cost: RoundCost  # seconds and joules by cause
    passes: Array = _unless_given(1)  # [] int32 windows that the target scored: one, or one for each streamed token
    budget: Array = _unless_given(0)  # [] int32 drafts that the controller allowed
    acceptance_rate: Array = _unless_given(0.0)  # [] the controller's estimate when it planned
    rejection_level: Array = _unless_given(1.0)  # [] the same, of rejections relative to the calibration's
    work: Array = _unless_given(0.0)  # [] weights read for the drafts, 1 for each at full depth
    support: Array = _unless_given(0.0)  # [] support sizes of q, summed over the drafts
    exits: Array = _unless_given(0)  # [X] int32 drafts by exit
    caught_up: Array = _unless_given(0)  # [] int32 committed tokens fed to the draft's cache first
    uplink_bits: Array = _unless_given(0.0)  # []
    downlink_bits: Array = _unless_given(0.0)  # []
    uplink_bps: Array = _unless_given(0.0)  # [] the channel's rate
    read_prompt: Array = _unless_given(False)  # [] bool the prompt was among what was caught up with
    remaining: Array = _unless_given(0)  # [] int32 tokens that the request might still bring, before the round
    queue_j: Array = _unless_given(0.0)  # [] energy queue after the round
    done: Array = _unless_given(False)  # [] bool the row is finished
    fault: Array = _unless_given(False)  # [] bool a model's logits were no numbers
    ids: Any = None  # [G+1] int32 ids emitted, the first `tokens` of them
    basis: Literal["modelled", "measured"] = static(default="modelled")  # where seconds and joules come from

    @property
    def time_s(self) -> Array:
        """[] seconds of the round."""
        return self.cost.time_s

    @property
    def energy_j(self) -> Array:
        """[] device joules of the round."""
        return self.cost.energy_j
