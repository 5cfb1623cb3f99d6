"""The best draft length against the delay of the link, with energy free and with energy dear.

Three lengths are compared at each delay: the best fixed one of the recorded texts, what `ratio` plans, and the best one
of a model in which every token is accepted alike. Link, device and edge are modelled.
"""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np

from gelato_experiments import figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Scenario, Share
from gelato_experiments.methods.compare import CAP_TOLERANCE, Measured, mean_and_half, measure
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import simulation, system
from gelato_jax.simulation import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRAIGHT = 0.9
"""R squared from which growth counts as logarithmic; assumed."""
NEAR_RATE = 0.98
"""Share of the best fixed length's tokens per second that `ratio` is to reach at every delay; assumed."""
NEAR_LENGTH = 1.0
"""Tokens by which lengths may differ, on the mean over delays, and still count as the same; assumed."""
DEAR_LENGTH = 2.0
"""Longest draft where energy is dear (arXiv 2604.09722)."""
SETTLED = 0.25
"""Share of the rounds before which `ratio`'s budgets are not averaged; assumed."""
_CHOOSERS = ("static", "ratio", "iid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is swept.

    Attributes:
        recording: of the pair.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset, whose delay is replaced.
        edges: presets.
        rtts_s: two-way delays.
        cap_w: cap on mean power where energy is dear.
        penalty_weight: V of `ratio`.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts and channels.
        vocab_size: ids that bits are counted over.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m"
    edges: tuple[str, ...] = ("rtx3090-7b", "h100-7b")
    rtts_s: tuple[float, ...] = tuple(float(delay) for delay in np.geomspace(1e-3, 2.0, 12).round(6))
    cap_w: float = 0.5
    penalty_weight: float = 0.1
    devices: int = 32
    rounds: int = 1500
    seed: int = 0
    vocab_size: int = 151936

    @property
    def caps_w(self) -> tuple[float, float]:
        """Energy free, and energy dear."""
        return math.inf, self.cap_w


QUICK = Settings()
FULL = Settings(rtts_s=tuple(float(delay) for delay in np.geomspace(1e-3, 2.0, 23).round(6)), devices=64, rounds=4000)


class _Grid(NamedTuple):
    """Every fixed length at every edge and delay: `[E, D, G + 1, shares]`."""

    tokens_per_s: np.ndarray
    power_w: np.ndarray
    round_s: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Sweep the delay.

    Returns:
        Rows of `kind` length, one for each edge, delay and cap: `static`, `ratio` and `iid` (tokens a round) with
        their `_half` of the interval, and the rates of the first two; and of `kind` fit, one for each edge and chooser:
        `slope` (tokens by e-fold of delay), its `_half`, `r2`, and `critical_s`.
    """
    recorded = recording(settings.recording)
    worlds = {place: _scenario(settings, *place) for place in itertools.product(settings.edges, settings.rtts_s)}
    progress("fixed lengths", 0, 3)
    grid = _fixed(recorded, worlds, settings)
    progress("ratio", 1, 3)
    budgets, rates = _ratio(recorded, worlds, settings)
    progress("choosing", 2, 3)
    iid = _iid(grid, first_acceptance(recorded))
    rows: list[Row] = []
    for (e, edge), (c, cap) in itertools.product(enumerate(settings.edges), enumerate(settings.caps_w)):
        chosen = {"static": _best(grid, e, cap), "ratio": budgets[e, :, c], "iid": iid[e]}
        for d, delay in enumerate(settings.rtts_s):
            best = int(_pooled_best(grid, e, cap)[d])
            row: Row = {"kind": "length", "edge": edge, "rtt_s": delay, "cap_w": cap, "static": best}
            row["static_half"] = mean_and_half(chosen["static"][d])[1]
            row["ratio"], row["ratio_half"] = mean_and_half(budgets[e, d, c])
            row["iid"] = float(iid[e, d].mean()) if math.isinf(cap) else None
            row["static_tokens_per_s"] = float(grid.tokens_per_s[e, d, best].mean())
            share = rates.tokens_per_s[e, d, c] / grid.tokens_per_s[e, d, best]
            row["ratio_share"], row["ratio_share_half"] = mean_and_half(share)
            row["static_power_w"] = float(grid.power_w[e, d, best].mean())
            row["ratio_power_w"] = float(rates.power_w[e, d, c].mean())
            rows.append(row)
        if math.isinf(cap):
            rows += [
                {"kind": "fit", "edge": edge, "chooser": who, **fit(settings.rtts_s, chosen[who])} for who in _CHOOSERS
            ]
    rows.append({"kind": "model", "acceptance": first_acceptance(recorded)})
    return rows


def first_acceptance(recorded: Recording) -> float:
    """Mean acceptance of a round's first draft token at the deepest exit: nothing before it can hide it."""
    inside = np.arange(recorded.rollouts.chance.shape[1]) < recorded.rollouts.positions[:, None]
    return float(recorded.rollouts.chance[inside][:, -1, 0].mean())


def _scenario(settings: Settings, edge: str, rtt_s: float) -> Scenario:
    world = system.preset(settings.device, settings.link, edge)
    world = dataclasses.replace(world, link=dataclasses.replace(world.link, rtt_s=jnp.float32(rtt_s)))
    return Scenario(system=world, payload=system.payload.candidates(32), vocab_size=settings.vocab_size)


def _effort(settings: Settings) -> Share:
    return Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)


def _fixed(recorded: Recording, worlds: dict[tuple[str, float], Scenario], settings: Settings) -> _Grid:
    size = recorded.max_draft_length
    terms = [
        world.terms(recorded, METHODS["static"], math.inf, {"draft_length": length})
        for world in worlds.values()
        for length in range(size + 1)
    ]
    found = measure(recorded, terms, _effort(settings))
    shape = (len(settings.edges), len(settings.rtts_s), size + 1, -1)
    # Tokens a round are accepted drafts and one more, but for a text's last round.
    tokens = 1.0 + found.acceptance * found.draft_length
    return _Grid(*(part.reshape(shape) for part in (found.tokens_per_s, found.power_w, tokens / found.tokens_per_s)))


def _ratio(
    recorded: Recording, worlds: dict[tuple[str, float], Scenario], settings: Settings
) -> tuple[np.ndarray, Measured]:
    """Mean budgets of `ratio` once settled, `[E, D, caps, shares]`, and its rates of the same shape."""
    effort, method = _effort(settings), METHODS["ratio"]
    weight = {"penalty_weight": settings.penalty_weight}
    terms = [world.terms(recorded, method, cap, weight) for world in worlds.values() for cap in settings.caps_w]
    history = simulation.simulate(
        recorded, terms, devices=effort.devices, rounds=effort.rounds, seed=effort.seed, history=True
    ).history
    assert history is not None
    parts = [history.budget, history.outcome.tokens, history.outcome.time_s, history.outcome.energy_j]
    parts = [part[:, :, int(SETTLED * effort.rounds) :].astype(np.float64) for part in parts]
    shape = (len(settings.edges), len(settings.rtts_s), len(settings.caps_w), effort.shares, -1)
    budget = parts[0].reshape(shape).mean(axis=-1)
    tokens, seconds, joules = (part.reshape(shape).sum(axis=-1) for part in parts[1:])
    drafted = budget  # what it plans is what it drafts, but for a text's last round
    return budget, Measured(tokens / seconds, joules / seconds, joules / tokens, drafted, drafted)


def _best(grid: _Grid, edge: int, cap_w: float) -> np.ndarray:
    """The fixed length of most tokens per second that keeps a cap, `[D, shares]`; 0 where none does."""
    keeps = grid.power_w[edge] <= cap_w * (1 + CAP_TOLERANCE)
    return np.where(keeps, grid.tokens_per_s[edge], 0.0).argmax(axis=1)


def _pooled_best(grid: _Grid, edge: int, cap_w: float) -> np.ndarray:
    """The same of all shares together, `[D]`."""
    pooled = _Grid(*(part.mean(axis=-1, keepdims=True) for part in grid))
    return _best(pooled, edge, cap_w)[:, 0]


def _iid(grid: _Grid, acceptance: float) -> np.ndarray:
    """The argmax of N/T with T as simulated and N as if every token were accepted alike, `[E, D, shares]`."""
    tokens = np.cumsum(acceptance ** np.arange(grid.round_s.shape[2]))
    return (tokens[:, None] / grid.round_s).argmax(axis=2)


def fit(rtts_s: tuple[float, ...], lengths: np.ndarray) -> dict[str, float | None]:
    """Straight line of length against the logarithm of delay, from the last delay at which the length is 1 or less.

    Args:
        rtts_s: D delays, ascending.
        lengths: `[D, shares]`.

    Returns:
        `slope` and its `_half`, `r2` of the means, and `critical_s`: the last delay of length 1.5 or less, None where
        even the first is longer.
    """
    mean, log = lengths.mean(axis=1), np.log(rtts_s)
    short = np.flatnonzero(mean <= 1.5)
    first = short[-1] if len(short) else 0
    x, means, rows = log[first:], mean[first:], lengths[first:]
    if len(x) < 3:
        return {"slope": None, "slope_half": None, "r2": None, "critical_s": float(rtts_s[first])}
    slopes, offsets = np.polyfit(x, rows, 1)
    slope, offset = slopes.mean(), offsets.mean()
    missed = np.square(means - slope * x - offset).sum()
    spread = np.square(means - means.mean()).sum()
    return {
        "slope": float(slope),
        "slope_half": mean_and_half(slopes)[1],
        "r2": float(1.0 - missed / spread) if spread > 0 else None,
        "critical_s": float(rtts_s[first]) if len(short) else None,
    }


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What T5 of the design says, and how near `ratio` comes."""
    alpha = next(row["acceptance"] for row in rows if row["kind"] == "model")
    fits = {(row["edge"], row["chooser"]): row for row in rows if row["kind"] == "fit"}
    free = [row for row in rows if row["kind"] == "length" and math.isinf(row["cap_w"])]
    dear = [row for row in rows if row["kind"] == "length" and not math.isinf(row["cap_w"])]
    return [
        _logarithm(settings, fits, alpha),
        _critical(settings, fits, free),
        *_near(settings, free),
        _dear(settings, dear),
    ]


def _logarithm(settings: Settings, fits: dict[tuple[str, str], Row], alpha: float) -> Claim:
    lines = {edge: fits[edge, "static"] for edge in settings.edges}
    said = "; ".join(
        f"{edge}: {_text(row['slope'])} ± {_text(row['slope_half'])} tokens by e-fold, R² {_text(row['r2'], 3)} "
        f"(ratio {_text(fits[edge, 'ratio']['slope'])}, R² {_text(fits[edge, 'ratio']['r2'], 3)})"
        for edge, row in lines.items()
    )
    return Claim(
        claim="The best fixed draft length grows about logarithmically with delay (arXiv 2606.20591)",
        required=f"R² at least {STRAIGHT} of a line in ln(delay) from the critical delay on, slope over 0",
        measured=f"{said}; equal acceptance {alpha:.3f} would tend to {1 / -math.log(alpha):.2f} by e-fold",
        holds=all((row["r2"] or 0.0) >= STRAIGHT and row["slope"] > 0 for row in lines.values()),
    )


def _critical(settings: Settings, fits: dict[tuple[str, str], Row], free: list[Row]) -> Claim:
    found, shortest = [], []
    for edge in settings.edges:
        own = [row for row in free if row["edge"] == edge]
        first, critical = own[0], fits[edge, "static"]["critical_s"]
        zero = [row["rtt_s"] for row in own if row["static"] == 0]
        reach = "none in the range" if critical is None else f"1 or less up to {1e3 * critical:.3g} ms"
        reach += f", and 0 up to {1e3 * zero[-1]:.3g} ms" if zero else ", never 0"
        found.append(f"{edge}: {first['static']} at {1e3 * first['rtt_s']:.3g} ms; {reach}")
        shortest.append(critical is not None)
    return Claim(
        claim="There is a critical delay below which the best draft is one token at most (arXiv 2606.20591)",
        required="the best fixed length is 1 or less at the shortest delays of every edge",
        measured="; ".join(found) + ". Where the edge is faster than a draft token, not drafting at all is best",
        holds=all(shortest),
    )


def _near(settings: Settings, free: list[Row]) -> list[Claim]:
    worst = min(free, key=lambda row: row["ratio_share"])
    apart = float(np.mean([abs(row["ratio"] - row["static"]) for row in free]))
    model = float(np.mean([abs(row["iid"] - row["static"]) for row in free]))
    under = float(np.mean([row["iid"] - row["static"] for row in free]))
    return [
        Claim(
            claim="`ratio`, told no length, drafts at every delay as well as the best fixed length of that delay",
            required=f"at least {NEAR_RATE:.0%} of its tokens/s everywhere",
            measured=f"at worst {worst['ratio_share']:.3f} ± {worst['ratio_share_half']:.3f} of it "
            f"({worst['edge']}, {1e3 * worst['rtt_s']:.3g} ms); its mean budget is {apart:.2f} tokens away on average",
            holds=worst["ratio_share"] >= NEAR_RATE,
        ),
        Claim(
            claim="Equal acceptance of all tokens predicts the best fixed length",
            required=f"within {NEAR_LENGTH:g} token on the mean over delays",
            measured=f"{model:.2f} tokens away on average ({under:+.2f} with sign)",
            holds=model <= NEAR_LENGTH,
        ),
    ]


def _dear(settings: Settings, dear: list[Row]) -> Claim:
    fixed, planned = max(row["static"] for row in dear), max(dear, key=lambda row: row["ratio"])
    short = [row["rtt_s"] for row in dear if max(row["static"], row["ratio"]) <= DEAR_LENGTH]
    longer = [row["rtt_s"] for row in dear if max(row["static"], row["ratio"]) > DEAR_LENGTH]
    reach = f"; it holds below {1e3 * min(longer):.3g} ms: a cap in watts allows more joules, the longer the wait"
    return Claim(
        claim="Where energy is dear, drafts shrink to 0 to 2 tokens at every delay (arXiv 2604.09722)",
        required=f"at most {DEAR_LENGTH:g} tokens under a cap of {settings.cap_w:g} W, fixed and `ratio`",
        measured=f"fixed at most {fixed}; `ratio` at most {planned['ratio']:.2f} ± {planned['ratio_half']:.2f} "
        f"({1e3 * planned['rtt_s']:.4g} ms), drawing at most {max(row['ratio_power_w'] for row in dear):.3f} W"
        + (reach if short and longer else ""),
        holds=max(fixed, planned["ratio"]) <= DEAR_LENGTH,
    )


def _text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Length against delay, a panel for each edge."""
    figure, axes = figures.new_figure(1, len(settings.edges), sharey=True)
    for ax, edge in zip(axes[0], settings.edges, strict=True):
        lengths = [row for row in rows if row["kind"] == "length" and row["edge"] == edge]
        free = [row for row in lengths if math.isinf(row["cap_w"])]
        dear = [row for row in lengths if not math.isinf(row["cap_w"])]
        cap = f"at {settings.cap_w:g} W"
        for chosen, name, text, color, look in (
            (free, "static", "best fixed", figures.BLUE, {"marker": "o", "linestyle": ""}),
            (free, "iid", "equal acceptance", figures.GREY, {"linestyle": "--"}),
            (free, "ratio", "ratio", figures.VERMILLION, {}),
            (dear, "static", f"best fixed {cap}", figures.SKY, {"marker": "s", "linestyle": ""}),
            (dear, "ratio", f"ratio {cap}", figures.ORANGE, {}),
        ):
            x, y = [1e3 * row["rtt_s"] for row in chosen], [row[name] for row in chosen]
            ax.plot(x, y, color=color, **look)
            figures.label_line(ax, x[-1], y[-1], text, color)
        ax.set_xscale("log")
        ax.set_title(f"{edge}, {settings.device} (modelled)")
        ax.set_xlabel("two-way delay (ms)")
    axes[0, 0].set_ylabel("draft length (tokens)")
    return figure


STUDY = Study(
    name="delay",
    question="How does the best draft length grow with the link's delay, and what is left of it where energy is dear?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
