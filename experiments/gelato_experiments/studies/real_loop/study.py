"""The real loop against the simulator: the same prompts decoded by the real pair, and replayed from a recording of it.

What replay says is exact must be exact (greedy text at one depth); where it approximates (sampled text, depth chosen
by token) the study measures by how much.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gelato_experiments.prompts import read_prompts
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, simulation, system
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, generate, make_job
from gelato_jax.simulation import Recording
from gelato_jax.simulation.recorder import make_recording

GREEDY, SAMPLED, DEPTH = "greedy", "sampled", "depth by token"
_WIDTH_95 = 1.96  # standard errors
_DEVICES_PER_TEXT = 32  # sampled: the acceptances of a text are drawn that often


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is decoded.

    Attributes:
        pair: name of a pair, or `tiny`, for tests.
        prompts: most prompts, spread over those that ship.
        max_new_tokens: of each.
        max_draft_length: G.
        power_budget_w: cap of `gelato` and `ratio`.
        penalty_weight: their V.
        methods: rules of greedy decoding.
        sampled_methods: rules of sampled decoding.
        sampled_runs: times that each prompt is sampled, by the real loop and in the recording.
        threshold_nats: entropy over which a token goes one exit deeper, where depth is chosen by token.
        world: device, link, edge.
        exact: share by which what is exact may differ.
        near: share by which an approximation may differ, beyond what its sampling explains.
        seed: of everything.
    """

    pair: str = "smollm2-135m"
    prompts: int = 26
    max_new_tokens: int = 96
    max_draft_length: int = 8
    power_budget_w: float = 2.0
    penalty_weight: float = 0.1
    methods: tuple[str, ...] = ("static 0", "static 2", "static 4", "hf_schedule", "gelato", "ratio", "ratio_priced")
    sampled_methods: tuple[str, ...] = ("static 2", "ratio_priced")
    sampled_runs: int = 4
    threshold_nats: float = 1.0
    world: tuple[str, str, str] = ("orin-nano-15w:smollm2-135m", "5mhz-500m", "h100-7b")
    exact: float = 1e-3
    near: float = 0.05
    seed: int = 0


QUICK = Settings(prompts=6, max_new_tokens=48, sampled_runs=1)
FULL = Settings()


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Decode and replay; one row for each part and method."""
    progress("loading the pair", 0, 0)
    pair = _pair(settings.pair)
    prompts = _prompts(pair, settings)
    cold = DecodeSettings(
        max_draft_length=settings.max_draft_length, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    rows: list[Row] = []
    recording = make_recording(pair, prompts, settings=cold, categories=[GREEDY] * len(prompts), progress=progress)
    parts = [(GREEDY, method) for method in settings.methods] + [(DEPTH, "ratio_priced")]
    total = len(parts) + len(settings.sampled_methods)
    expected = autoregressive(pair, prompts, settings=cold)
    for part, method in parts:
        progress("decoding", len(rows), total)
        rows.append(_compare(pair, prompts, cold, recording, settings, part, method, expected))
    many = [prompt for prompt in prompts for _ in range(settings.sampled_runs)]
    warm = dataclasses.replace(cold, temperature=1.0)
    recording = make_recording(pair, many, settings=warm, categories=[SAMPLED] * len(many), progress=progress)
    for method in settings.sampled_methods:
        progress("decoding", len(rows), total)
        rows.append(_compare(pair, many, warm, recording, settings, SAMPLED, method, None))
    progress("decoding", total, total)
    return rows


def _pair(name: str) -> Pair:
    if name == "tiny":
        from gelato_jax import testing

        return testing.tiny_pair(0.03)
    from gelato_checkpoints import load_pair

    return load_pair(name, weights="float")


def _prompts(pair: Pair, settings: Settings) -> list[list[int]]:
    if settings.pair == "tiny":
        random = np.random.default_rng(settings.seed)
        return [random.integers(0, 60, size=4 + number).tolist() for number in range(settings.prompts)]
    return [pair.tokenizer.chat_prompt(text) for text in read_prompts(limit=settings.prompts)]


def _choices(settings: Settings, method: str, part: str) -> dict[str, Any]:
    """A method's rules, chosen by traced indices: one program for all methods and parts."""
    cap: dict[str, Any] = {"power_budget_w": settings.power_budget_w, "penalty_weight": settings.penalty_weight}
    rules, length = {
        "hf_schedule": (control.hf_schedule(), 0),
        "gelato": (control.gelato(**cap), 1),
        "ratio": (control.ratio(**cap), 0),
        "ratio_priced": (control.ratio(**cap), 2),
    }.get(method, (None, 0))
    if rules is None:
        rules = control.static(int(method.removeprefix("static ")))
    options = (control.static(0), control.hf_schedule(), control.gelato(**cap), control.ratio(**cap))
    index = next(number for number, option in enumerate(options) if option.rule == rules.rule)
    exits = (control.length_exits.none(), control.length_exits.bucket(), control.length_exits.priced())
    depths = (control.depth_exits.fixed(), control.depth_exits.entropy(settings.threshold_nats))
    return {
        "controller": control.select_controller((*options[:index], rules, *options[index + 1 :]), index),
        "length_exit": control.select_length_exit(exits, length),
        "depth_exit": control.select_depth_exit(depths, int(part == DEPTH)),
        "payload": payloads.candidates(32),
        "system": system.preset(*settings.world),
    }


def _compare(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    decoding: DecodeSettings,
    recording: Recording,
    settings: Settings,
    part: str,
    method: str,
    expected: Sequence[Sequence[int]] | None,
) -> Row:
    """Decode every prompt, replay every text, and compare."""
    choices = _choices(settings, method, part)
    decoded = generate(pair, prompts, settings=decoding, **choices)
    copies = 1 if expected is not None else _DEVICES_PER_TEXT
    texts = np.repeat(np.arange(len(prompts)), copies)
    replayed = simulation.simulate(
        recording,
        [make_job(pair, settings=decoding, **choices).setup],
        devices=len(texts),
        rounds=settings.max_new_tokens - 1,
        texts=texts.tolist(),
        endless=False,
        seed=settings.seed,
    )
    real = _sums(decoded.totals, len(prompts))
    simulated = _sums(jax.tree.map(lambda leaf: leaf[0], replayed.totals), len(prompts))
    counts = ("rounds", "drafted", "accepted", "tokens")
    row: Row = {"part": part, "method": method, "texts": len(prompts), "tokens": int(real["tokens"].sum())}
    row |= _texts(pair, prompts, expected, decoded.tokens)
    if expected is not None:
        row["counts_differ"] = int(np.any([real[name] != simulated[name] for name in counts], axis=0).sum())
    for name, sums in (("real", real), ("simulated", simulated)):
        row[f"{name}_tokens_per_round"] = float(sums["tokens"].sum() / sums["rounds"].sum())
        row[f"{name}_draft_length"] = float(sums["drafted"].sum() / sums["rounds"].sum())
    for name, above, below in (("tokens_per_s", "tokens", "seconds"), ("energy", "joules", "tokens")):
        (one, error), (other, error_of_other) = (_ratio(sums[above], sums[below]) for sums in (real, simulated))
        row[f"real_{name}"], row[f"simulated_{name}"] = one, other
        row[f"{name}_off"] = other / one - 1.0
        row[f"{name}_half"] = 0.0 if expected is not None else _WIDTH_95 * float(np.hypot(error, error_of_other)) / one
    return row


def _texts(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]] | None,
    found: Sequence[Sequence[int]],
) -> Row:
    """How many texts are not the target's own, and how many of those part at a tie of two logits."""
    from gelato_experiments.benchmarks import lossless

    if expected is None:
        return {}
    outcomes = [
        lossless.compare(pair.target, prompt, one, other, "", number).outcome
        for number, (prompt, one, other) in enumerate(zip(prompts, expected, found, strict=True))
    ]
    return {"texts_differ": len(outcomes) - outcomes.count("equal"), "texts_tie": outcomes.count("tie")}


def _sums(totals: Any, texts: int) -> dict[str, np.ndarray]:
    """Sums by text, in double precision; devices of one text are neighbours. Seconds and joules count the prompt."""
    names = ("rounds", "drafted", "accepted", "tokens", "time_s", "energy_j", "prompt_s", "prompt_j")
    leaves = {name: getattr(totals, name) for name in names}
    whole = {
        name: np.asarray(leaf, np.float64) if isinstance(leaf, np.ndarray) else np.float64(leaf.high) + leaf.low
        for name, leaf in leaves.items()
    }
    whole |= {"seconds": whole["time_s"] + whole["prompt_s"], "joules": whole["energy_j"] + whole["prompt_j"]}
    return {name: value.reshape(texts, -1).sum(axis=1) for name, value in whole.items()}


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """A ratio of sums over texts, and its standard error (by linearisation)."""
    ratio = above.sum() / below.sum()
    return float(ratio), float(np.sqrt(np.square(above - ratio * below).sum()) / below.sum())
