"""What the study `delay` claims."""

import math

import numpy as np

from gelato_experiments.studies.delay.study import Settings
from gelato_experiments.study import Claim, Row

STRAIGHT = 0.9
"""R squared from which growth counts as logarithmic; assumed."""
NEAR_RATE = 0.98
"""Share of the best fixed length's tokens per second that `ratio` is to reach at every delay; assumed."""
NEAR_LENGTH = 1.0
"""Tokens by which lengths may differ, on the mean over delays, and still count as the same; assumed."""
DEAR_LENGTH = 2.0
"""Longest draft where energy is dear (arXiv 2604.09722)."""


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
        reach = "none in the range" if critical is None else f"1 or less up to {_ms(critical)}"
        reach += f", and 0 up to {_ms(zero[-1])}" if zero else ", never 0"
        found.append(f"{edge}: {first['static']} at {_ms(first['rtt_s'])}; {reach}")
        shortest.append(critical is not None)
    return Claim(
        claim="There is a critical delay below which the best draft is one token at most (arXiv 2606.20591)",
        required="the best fixed length is 1 or less at the shortest delays of every edge",
        measured="; ".join(found) + ". Where it is 0, even one token takes longer to draft than it saves",
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
            required=f"at least {NEAR_RATE:.0%} of its tokens/s, prompts counted, everywhere",
            measured=f"at worst {worst['ratio_share']:.3f} ± {worst['ratio_share_half']:.3f} of it "
            f"({worst['edge']}, {_ms(worst['rtt_s'])}); its mean budget is {apart:.2f} tokens away on average",
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
    reach = f"; it holds below {_ms(min(longer, default=0.0))}: a cap in watts allows more joules, the longer the wait"
    return Claim(
        claim="Where energy is dear, drafts shrink to 0 to 2 tokens at every delay (arXiv 2604.09722)",
        required=f"at most {DEAR_LENGTH:g} tokens under a cap of {settings.cap_w:g} W, fixed and `ratio`",
        measured=f"fixed at most {fixed}; `ratio` at most {planned['ratio']:.2f} ± {planned['ratio_half']:.2f} "
        f"({_ms(planned['rtt_s'])}), drawing at most {max(row['ratio_power_w'] for row in dear):.3f} W"
        + (reach if short and longer else ""),
        holds=max(fixed, planned["ratio"]) <= DEAR_LENGTH,
    )


def _ms(seconds: float) -> str:
    return f"{float(f'{1e3 * seconds:.3g}'):g} ms"


def _text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
