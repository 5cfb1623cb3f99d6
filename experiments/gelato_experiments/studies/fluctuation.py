"""How methods tuned in a calm world hold up when link, device, meter or beliefs are other than they were."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gelato_experiments import figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Method, Scenario
from gelato_experiments.methods.base import Setting
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half
from gelato_experiments.studies.worlds import WORLDS, World, calm, still
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import payloads, simulation, system
from gelato_jax.simulation import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = "static"
CAPPED = ("gelato", "ratio", "ratio_priced")
"""Methods with a queue."""
WORTH = 0.95
"""Share of a rate that is to be kept."""
SHARES = 8  # of the devices, for intervals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        recording: of the pair.
        device: preset.
        link: preset; its fading is switched off in the calm world.
        edge: preset.
        vocab_size: ids that bits are counted over.
        cap_w: on mean power, binding.
        methods: names of the registry; `static` among them.
        heavy_methods: those that meet the link's worlds with a heavy payload too, two bits of each entry of q;
            `static` among them, or none.
        devices: simulated under each setting, a multiple of 8.
        rounds: of each.
        seed: of texts and channels.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    vocab_size: int = 151936
    cap_w: float = 1.25
    methods: tuple[str, ...] = ("static", "hf_schedule", "gelato", "ratio", "ratio_priced")
    heavy_methods: tuple[str, ...] = ()
    devices: int = 32
    rounds: int = 1_500
    seed: int = 0


QUICK = Settings()
FULL = Settings(devices=64, rounds=3_000, heavy_methods=("static", "hf_schedule", "gelato", "ratio", "ratio_priced"))

PAYLOADS = {"candidates": lambda: payloads.candidates(32), "quantized": lambda: payloads.quantized(2)}


class _Found(NamedTuple):
    """Tokens per second, true watts, and watts that the queue still holds, of one setting, `[shares]` each."""

    rate: np.ndarray
    power: np.ndarray
    queue: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Tune every method in the calm world on half of the texts; judge it in every world on the other half.

    Returns:
        Rows by `payload`, `method` and `world`: `tokens_per_s` and `power_w`; as shares of the same method's in the
        calm world (`of_calm`) and of a fixed length's that is tuned anew in that world (`of_retuned`). `queue_w` is
        what the queue holds at the end, spread over the run: by so much may one that began empty exceed the cap.
    """
    tuning, judging = recording(settings.recording).halves()
    jobs = [("candidates", name, WORLDS) for name in settings.methods]
    bumpy = tuple(world for world in WORLDS if world.kind in ("calm", "link"))
    jobs += [("quantized", name, bumpy) for name in settings.heavy_methods]
    rows: list[Row] = []
    retuned: dict[tuple[str, str], _Found] = {}
    for number, (payload, name, worlds) in enumerate(jobs):
        progress(f"{name}, {payload}", number, len(jobs))
        method, scenario = METHODS[name], _scenario(settings, payload)
        chosen = _tune(tuning, method, scenario, settings)
        tried = method.grid if name == FIXED else (chosen,)
        # Beliefs do not move a fixed length.
        met = [world for world in worlds if not (name == FIXED and world.kind == "belief")]
        found = _judge(judging, method, scenario, met, tried, settings)
        found |= {world.name: found[WORLDS[0].name] for world in worlds if world.name not in found}
        if name == FIXED:
            retuned |= {(payload, world.name): _best(found[world.name], settings.cap_w) for world in worlds}
        own = {world.name: found[world.name][tried.index(chosen)] for world in worlds}
        for world in worlds:
            rows.append(_row(payload, method, world, chosen, own, retuned[payload, world.name], settings))
    return rows


def _scenario(settings: Settings, payload: str) -> Scenario:
    world = system.preset(settings.device, settings.link, settings.edge)
    return Scenario(
        system=world, payload=PAYLOADS[payload](), vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )


def _tune(recorded: Recording, method: Method, scenario: Scenario, settings: Settings) -> Setting:
    """The setting of most tokens per second that keeps the cap in the calm world, or that of least power."""
    found = _judge(recorded, method, scenario, WORLDS[:1], method.grid, settings)[WORLDS[0].name]
    power = np.array([one.power.mean() for one in found])
    keeps = power <= settings.cap_w * (1 + CAP_TOLERANCE)
    rate = np.where(keeps, [one.rate.mean() for one in found], -np.inf)
    return method.grid[int(rate.argmax() if keeps.any() else power.argmin())]


def _best(found: Sequence[_Found], cap_w: float) -> _Found:
    """The fastest that keeps the cap, or the one of least power."""
    keeping = [one for one in found if one.power.mean() <= cap_w * (1 + CAP_TOLERANCE)]
    if keeping:
        return max(keeping, key=lambda one: one.rate.mean())
    return min(found, key=lambda one: one.power.mean())


def _judge(
    recorded: Recording,
    method: Method,
    scenario: Scenario,
    worlds: Sequence[World],
    tried: Sequence[Setting],
    settings: Settings,
) -> dict[str, list[_Found]]:
    """Every setting in every world: worlds of one environment run together."""
    found: dict[str, list[_Found]] = {}
    by_environment = sorted(worlds, key=lambda world: world.environment is not None)
    for environment, members in groupby(by_environment, key=lambda world: world.environment):
        points = [(world, setting) for world in members for setting in tried]
        points *= 1 + (len(points) == 1)  # one setting alone would be another program
        actual = [
            world.actual(calm(scenario.terms(recorded, method, settings.cap_w, setting))) for world, setting in points
        ]
        result = simulation.simulate(
            recorded,
            actual,
            believed=[world.believed(terms) for (world, _), terms in zip(points, actual, strict=True)],
            environment=still() if environment is None else environment(),
            devices=settings.devices,
            rounds=settings.rounds,
            seed=settings.seed,
        )
        for number, (world, _) in enumerate(points):
            found.setdefault(world.name, []).append(_found(result, number, world.meter))
    return found


def _found(result: simulation.Simulation, number: int, meter: float) -> _Found:
    totals = result.totals
    shares = lambda values: np.asarray(values, np.float64).reshape(SHARES, -1).sum(axis=1)  # noqa: E731
    sums = (totals.time_s, totals.energy_j, totals.prompt_s, totals.prompt_j)
    seconds, joules, prompt_s, prompt_j = (shares(total.high[number]) for total in sums)
    whole = meter * (seconds + prompt_s)
    queue = shares(result.queue_j[number])
    return _Found(shares(totals.tokens[number]) / seconds, (joules + prompt_j) / whole, queue / whole)


def _row(
    payload: str,
    method: Method,
    world: World,
    chosen: Setting,
    own: dict[str, _Found],
    retuned: _Found,
    settings: Settings,
) -> Row:
    here, before = own[world.name], own[WORLDS[0].name]
    row: Row = {"payload": payload, "method": method.name, "world": world.name, "kind": world.kind}
    row |= {"setting": json.dumps(dict(chosen)), "cap_w": settings.cap_w}
    figures_of = {
        "tokens_per_s": here.rate,
        "power_w": here.power,
        "of_calm": here.rate / before.rate,
        "of_retuned": here.rate / retuned.rate,
    }
    for name, values in figures_of.items():
        row[name], row[f"{name}_half"] = mean_and_half(values)
    row["retuned_tokens_per_s"] = float(retuned.rate.mean())
    row["power_of_calm"] = row["power_w"] / float(before.power.mean())
    row["queue_w"] = float(here.queue.mean())
    row["keeps_cap"] = row["power_w"] - row["queue_w"] <= settings.cap_w * (1 + CAP_TOLERANCE)
    return row


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """Whether the cap holds, and what a departure from the calm world costs."""
    capped = [row for row in rows if row["method"] in CAPPED]
    right = [row for row in capped if row["kind"] != "meter"]
    beliefs = [row for row in right if row["kind"] == "belief"]
    priors = [row for row in beliefs if row["world"].startswith("prior")]
    return [
        _cap_claim(right, settings),
        _fixed_claim(rows, settings),
        _meter_claim(capped, settings),
        _share_claim(
            "ratio, tuned once, is worth a fixed length that is tuned anew for the world",
            "of its tokens/s in every world of another link or device",
            [row for row in right if row["method"] == "ratio" and row["kind"] in ("link", "device")],
            "of_retuned",
        ),
        _share_claim(
            "wrong constants and a wrong alpha(H) cost methods with a queue little",
            "of the calm world's tokens/s",
            [row for row in beliefs if row not in priors],
            "of_calm",
        ),
        _share_claim("a wrong prior of acceptance is unlearnt", "of the calm world's tokens/s", priors, "of_calm"),
    ]


def _where(row: Row) -> str:
    heavy = " (heavy payload)" if row["payload"] != "candidates" else ""
    return f"{row['method']} in `{row['world']}`{heavy}"


def _cap_claim(right: list[Row], settings: Settings) -> Claim:
    worst = max(right, key=lambda row: row["power_w"] - row["queue_w"])
    return Claim(
        claim="methods with a queue keep the cap in every world whose joules are measured rightly",
        required=f"mean power at most {CAP_TOLERANCE:.1%} over {settings.cap_w:g} W, but for what the queue holds",
        measured=f"at most {worst['power_w']:.3f} W of which the queue holds {worst['queue_w']:.3f}, {_where(worst)}; "
        f"without that allowance at most {max(row['power_w'] for row in right):.3f} W",
        holds=all(row["keeps_cap"] for row in right),
    )


def _fixed_claim(rows: list[Row], settings: Settings) -> Claim:
    fixed = [row for row in rows if row["method"] == FIXED and row["kind"] in ("link", "device")]
    over = [row for row in fixed if not row["keeps_cap"]]
    worst = max(fixed, key=lambda row: row["power_w"])
    return Claim(
        claim="a draft length tuned once breaks the cap in some other world",
        required=f"mean power over {settings.cap_w:g} W in a world of another link or device",
        measured=f"in {len(over)} of {len(fixed)}; most: {worst['power_w']:.3f} W, {_where(worst)}",
        holds=bool(over),
    )


def _meter_claim(capped: list[Row], settings: Settings) -> Claim:
    half = [row for row in capped if row["world"] == "meter shows half"]
    listed = ", ".join(f"{row['method']} {row['power_w']:.2f} W" for row in half)
    return Claim(
        claim="the cap is one on measured joules: a meter that shows half of them lets it be exceeded",
        required=f"mean power over {settings.cap_w:g} W with ratio",
        measured=listed,
        holds=all(not row["keeps_cap"] for row in half if row["method"] == "ratio"),
    )


def _share_claim(claim: str, of: str, rows: list[Row], column: str) -> Claim:
    worst = min(rows, key=lambda row: row[column])
    return Claim(
        claim=claim,
        required=f"at least {WORTH:.0%} {of}",
        measured=f"at least {worst[column]:.1%} +- {worst[f'{column}_half']:.1%}, {_where(worst)}",
        holds=worst[column] >= WORTH,
    )


_MARKS = dict(zip(("static", "hf_schedule", "gelato", "ratio", "ratio_priced"), "sv^oD", strict=True))


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Worlds from top to bottom; rate against the re-tuned fixed length, and power, of every method."""
    payloads = list(dict.fromkeys(row["payload"] for row in rows))
    figure, axes = figures.new_figure(len(payloads), 2, panel_height=5.2, sharey="row")
    for payload, (left, right) in zip(payloads, axes, strict=True):
        part = [row for row in rows if row["payload"] == payload]
        worlds = list(dict.fromkeys(row["world"] for row in part))
        names = list(dict.fromkeys(row["method"] for row in part))
        for number, (name, color) in enumerate(zip(names, figures.PALETTE, strict=False)):
            own = {row["world"]: row for row in part if row["method"] == name}
            place = np.arange(len(worlds)) + 0.13 * (number - (len(names) - 1) / 2)
            for ax, column, scale in ((left, "of_retuned", 100.0), (right, "power_w", 1.0)):
                values = scale * np.array([own[world][column] for world in worlds])
                halves = scale * np.array([own[world][f"{column}_half"] for world in worlds])
                mark = _MARKS.get(name, "o")
                ax.errorbar(values, place, xerr=halves, fmt=mark, color=color, label=name, markersize=4, linewidth=1)
        left.axvline(100.0, color=figures.GREY, linewidth=1.0)
        right.axvline(settings.cap_w, color=figures.GREY, linewidth=1.0)
        left.set_yticks(range(len(worlds)), worlds)
        left.invert_yaxis()
        left.set(xlabel="tokens/s, % of a fixed length tuned for that world", title=f"Rate, payload {payload}")
        right.set(xlabel=f"mean power, W (line: the cap, {settings.cap_w:g} W)", title="Power")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


STUDY = Study(
    name="fluctuation",
    question="Do methods that were tuned in a calm world keep the cap and their rate when the world changes?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
