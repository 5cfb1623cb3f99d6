"""The options of `gelato generate`, in groups: what they are called, what they mean, what they may be.

Only dataclasses: this file is imported to print help, so it imports nothing heavy. The names of rules are read
from the registries of `control`, which load a rule, and jax, when it is looked up; those of payloads repeat
`system.payload`, and a test holds them together.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from tyro.conf import Positional, UseAppendAction, arg

from gelato_jax.config import CacheType
from gelato_jax.control.registry import CONTROLLERS, DEPTH_EXITS, DRAFT_SAMPLINGS, LENGTH_EXITS
from gelato_jax.control.registry import options as options_of
from gelato_jax.errors import GelatoError
from gelato_jax.meter import MeterName

if TYPE_CHECKING:
    ControllerName = LengthExitName = DepthExitName = DraftSamplingName = str
else:
    ControllerName = Literal[tuple(CONTROLLERS)]
    LengthExitName = Literal[tuple(LENGTH_EXITS)]
    DepthExitName = Literal[tuple(DEPTH_EXITS)]
    DraftSamplingName = Literal[tuple(DRAFT_SAMPLINGS)]


WeightsName = Literal["auto", "float", "float32", "bfloat16", "q8", "q4", "source"]
"""What `gelato_checkpoints.Weights` may be."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Legal values of a number, ends included."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, option: str, value: Any) -> None:
        """Refuse a value outside the range, or NaN."""
        if not self.low <= value <= self.high:
            bound = f"in {self.low:g}..{self.high:g}" if math.isfinite(self.high) else f"at least {self.low:g}"
            raise GelatoError(f"{option} is {value}, must be {bound}")


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: annotations must be hashable
class OnlyWith:
    """An option that means something only where another has one of some values, and its default beside each of them."""

    option: str
    defaults: dict[str, Any]

    def complete(self, option: str, value: Any, chosen: str) -> Any:
        """The value in force; refuses one beside a choice that ignores it."""
        if value is None:
            return self.defaults.get(chosen)
        if chosen not in self.defaults:
            other = flag(self.option)
            choices = " or ".join(self.defaults)
            raise GelatoError(f"{option} has no effect with {other} {chosen}; leave it out, or take {other} {choices}")
        return value


CONTROLLER_FIELDS = {
    "power_budget_w": ("power_budget_w",),
    "energy_budget_j": ("energy_budget_j",),
    "pass_budget": ("pass_budget",),
    "penalty_weight": ("penalty_weight",),
    "draft_length": ("draft_length", "initial"),
}
"""Options of some controllers alone, and what a constructor that takes one may call it."""


def taken_as(field: str, controller: str) -> str | None:
    """What a controller's constructor calls an option; None if it does not take it."""
    taken = options_of(CONTROLLERS, controller)
    return next((name for name in CONTROLLER_FIELDS[field] if name in taken), None)


class OfController:
    """One of `CONTROLLER_FIELDS`: means something only with those controllers that take it, and has their default."""

    def complete(self, field: str, value: Any, controller: str) -> Any:
        """The value in force, None where the constructor's own default is no finite number; refuses one ignored."""
        name = taken_as(field, controller)
        if value is not None and name is None:
            others = " or ".join(other for other in CONTROLLERS if taken_as(field, other))
            raise GelatoError(
                f"{flag(field)} has no effect with --controller {controller}; "
                f"leave it out, or take --controller {others}"
            )
        if value is not None or name is None:
            return value
        default = options_of(CONTROLLERS, controller)[name]
        return default if isinstance(default, int | float) and math.isfinite(default) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Which models."""

    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, whose text you get: a name from `gelato models`, hf:OWNER/NAME, a folder or a .gguf file."""
    draft: Annotated[
        str | None, arg(metavar="MODEL", help_behavior_hint="(default: the trained draft that ships, else layers:6)")
    ] = None
    """The draft, which proposes tokens: a folder of `gelato train-draft`, as --model, layers:K for the target's first K
    layers, or lookup for no weights at all: what stood behind the last tokens before is proposed again."""
    weights: WeightsName = "auto"
    """How weights are kept: float (float32 on a CPU, else bfloat16), float32, bfloat16, q8 or q4 (8 or 4 bits, a scale
    for every 32), source (a GGUF file's own 4- or 8-bit blocks); auto on a CPU is source for such a file and bfloat16
    for a checkpoint in it, else float.
    """
    cache: CacheType = "auto"
    """Type of keys and values, float32 or bfloat16: the latter takes half the memory, and makes long texts faster. auto
    is the weights' own, float32 where these are in blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputOptions(PairOptions):
    """What is asked, and of whom."""

    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT", help_behavior_hint="")] = None
    """The prompt; one user turn in the model's chat template."""
    prompt_file: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Read the prompt from a UTF-8 file, all of it one prompt; FILE may be - for standard input."""
    raw: Annotated[bool, arg(help_behavior_hint="(default: chat template)")] = False
    """Continue the prompt as it is, without the chat template."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How long the text is and which distribution it follows."""

    max_new_tokens: Annotated[int, arg(metavar="N"), Range(1)] = 128
    """Tokens generated at most; 1 or more."""
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """End the text before this string."""
    temperature: Annotated[float, arg(metavar="T"), Range(0.0)] = 0.0
    """Temperature of the target's distribution: 0 always takes the likeliest token, 1 is the model's own."""
    top_p: Annotated[float, arg(metavar="P"), Range(1e-6, 1.0)] = 1.0
    """Sample from the likeliest tokens that together have probability P, in (0, 1]; 1 keeps all."""
    top_k: Annotated[int, arg(metavar="K"), Range(0, 2**31 - 1)] = 0
    """Sample from the K likeliest tokens; 0 keeps all."""
    seed: Annotated[int, arg(metavar="N"), Range(0, 2**32 - 1)] = 0
    """Random numbers: the same seed and options give the same text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """How much is drafted. Changes speed and energy, never the distribution of the text."""

    controller: ControllerName = "ratio"
    """Sets each round's draft length: ratio is best, gelato the paper's, gelato_estimated that by what was accepted;
    those after them want --length-exit none."""
    power_budget_w: Annotated[
        float | None,
        arg(metavar="W", help_behavior_hint="(default: no cap)"),
        Range(0.0),
        OfController(),
    ] = None
    """Cap on the device's mean power in watts, idle included (flexspec: of each round)."""
    energy_budget_j: Annotated[
        float | None,
        arg(metavar="J", help_behavior_hint="(default: none)"),
        Range(0.0),
        OfController(),
    ] = None
    """Joules that a round may cost on average, in place of the cap on power; gelato needs one of the two."""
    pass_budget: Annotated[
        float | None,
        arg(metavar="C", help_behavior_hint="(default: no cap)"),
        Range(0.0),
        OfController(),
    ] = None
    """Cap on the target's passes for each token: 1 is what it takes alone, and a round with drafts is one pass."""
    penalty_weight: Annotated[
        float | None,
        arg(metavar="V", help_behavior_hint="(default: 10)"),
        Range(0.0),
        OfController(),
    ] = None
    """Worth of speed against the energy queue, 0 or more: larger is faster and lets the queue grow longer."""
    draft_length: Annotated[
        int | None,
        arg(metavar="N", help_behavior_hint="(default: 4, at first 5)"),
        Range(0, 32),
        OfController(),
    ] = None
    """Tokens drafted a round by static, at first by hf_schedule; 0..32, cut at --max-draft-length."""
    max_draft_length: Annotated[int, arg(metavar="G"), Range(0, 32)] = 4
    """Most tokens drafted in a round, 0..32. A new value compiles once; 0 decodes by the target alone."""
    stream_length: Annotated[
        int | None,
        arg(metavar="N", help_behavior_hint="(default: 1; with --system local 5)"),
        Range(1, 63),
        OnlyWith("system", {"modelled": 1, "local": 5}),
    ] = None
    """Tokens that a message without drafts asks of the target, 1..63: with 1 each is a round trip, as in the paper;
    with more the edge goes on by itself, as a server does that streams."""
    length_exit: LengthExitName = "priced"
    """Ends a round's drafting early by entropy or confidence; priced weighs a token's worth against its cost."""
    depth_exit: DepthExitName = "fixed"
    """Ends a drafted token's computing at an early exit; fixed always takes the deepest."""
    draft_sampling: DraftSamplingName = "fixed"
    """The draft's temperature: the target's (fixed), or lower where the draft is uncertain (entropy)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PayloadOptions:
    """What travels between device and edge. The distribution of the text stays the same."""

    payload: Literal["candidates", "full", "top_p", "top_k", "quantized", "scalar", "seeded"] = "candidates"
    """With a token go: its probability (scalar, candidates), the draft's whole distribution (full), part of it, nothing
    (seeded)."""
    payload_top_p: Annotated[
        float | None,
        arg(metavar="P", help_behavior_hint="(default: 0.9)"),
        Range(1e-6, 1.0),
        OnlyWith("payload", {"top_p": 0.9}),
    ] = None
    """Probability that a top_p payload keeps of the draft's distribution, in (0, 1]."""
    payload_top_k: Annotated[
        int | None,
        arg(metavar="K", help_behavior_hint="(default: 64)"),
        Range(1, 2**31 - 1),
        OnlyWith("payload", {"top_k": 64}),
    ] = None
    """Tokens that a top_k payload keeps; 1 or more."""
    payload_bits: Annotated[
        int | None,
        arg(metavar="BITS", help_behavior_hint="(default: 8)"),
        Range(2, 16),
        OnlyWith("payload", {"quantized": 8}),
    ] = None
    """Bits of each probability in a quantized payload; 2..16."""
    payload_candidates: Annotated[
        int | None,
        arg(metavar="M", help_behavior_hint="(default: 32)"),
        Range(1, 2**31 - 1),
        OnlyWith("payload", {"candidates": 32}),
    ] = None
    """Fresh tokens that the edge sends after a rejection, for the device to choose from; 1 or more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """The device, link and edge of a `system` that is modelled; names from `gelato presets`."""

    device: Annotated[
        str | None,
        arg(metavar="NAME", help_behavior_hint="(default: orin-nano-15w)"),
        OnlyWith("system", {"modelled": "orin-nano-15w"}),
    ] = None
    """The device that drafts; or FILE.json, as `gelato bench power --write-device` writes it."""
    link: Annotated[
        str | None,
        arg(metavar="NAME", help_behavior_hint="(default: 5mhz-500m-60ms)"),
        OnlyWith("system", {"modelled": "5mhz-500m-60ms"}),
    ] = None
    """The radio link; -NNms at the end sets the two-way delay."""
    edge: Annotated[
        str | None,
        arg(metavar="NAME", help_behavior_hint="(default: rtx3090-7b)"),
        OnlyWith("system", {"modelled": "rtx3090-7b"}),
    ] = None
    """The edge server that verifies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemOptions(WorldOptions):
    """The device, link and edge whose time and energy are modelled; names from `gelato presets`."""

    system: Literal["modelled", "local"] = "modelled"
    """modelled: the presets of --device, --link and --edge. local: this machine's own measured times, no link, no
    energy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """The target on another machine, where `gelato edge` runs; here the draft alone computes."""

    remote: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="(default: this machine)")] = None
    """The edge that verifies. --model names its model: the tokenizer, and what the draft shares, are read here."""
    remote_token_file: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File that holds the token which the edge asks for."""
    remote_authority: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: no TLS)")] = None
    """Certificates, PEM, that the edge's is checked against: turns TLS on."""
    remote_clock: bool = False
    """Plan, and count seconds, by the delay and the edge's times as this machine's clock has them, in place of --link's
    delay and --edge. Rates and joules stay the presets'. What is drafted then differs from run to run."""
    remote_meter: Annotated[MeterName | None, arg(help_behavior_hint="(default: joules are modelled)")] = None
    """With --remote-clock: plan, and run the energy queue, by this machine's joules as its meter has them, in place of
    --device's. chips: the counters of processors, GPUs or board (needs the extra `power`); the radio stays modelled.
    battery: all that is drawn from it (Linux), the radio included. Other programs count, too."""
    remote_patience_s: Annotated[float | None, arg(metavar="S", help_behavior_hint="(default: 60)"), Range(1.0)] = None
    """For so long an edge that does not answer is tried again."""
    remote_offline: bool = False
    """Then let the draft go on alone, to the end of the answer. What it writes is not the target's text: the summary
    and the JSON say from which token on. An answer does not begin without the edge."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written where. Text goes to standard output, all else to standard error."""

    json: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write text, token ids and all figures as JSON; - writes them to standard output in its place."""
    quiet: Annotated[bool, arg(help_behavior_hint="(default: shown)")] = False
    """Neither panel nor progress nor summary: only the text."""


def flag(field: str) -> str:
    """What a field is called on the command line."""
    return "--" + field.replace("_", "-")


def complete(*groups: Any) -> dict[str, Any]:
    """All options of some groups by field name, checked, with the defaults that depend on other choices.

    Raises:
        GelatoError: a value out of range, or an option that the other choices ignore; names option, value and fix.
    """
    hints = {name: hint for group in groups for name, hint in get_type_hints(type(group), include_extras=True).items()}
    values = {name: getattr(group, name) for group in groups for name in get_type_hints(type(group))}
    completed = {}
    for name, value in values.items():
        for rule in getattr(hints[name], "__metadata__", ()):
            if isinstance(rule, Range) and value is not None:
                rule.check(flag(name), value)
            elif isinstance(rule, OnlyWith):
                value = rule.complete(flag(name), value, values[rule.option])
            elif isinstance(rule, OfController):
                value = rule.complete(name, value, values["controller"])
        completed[name] = value
    return completed
