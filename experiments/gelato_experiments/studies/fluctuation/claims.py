"""What the study `fluctuation` claims."""

from gelato_experiments.methods.compare import CAP_TOLERANCE
from gelato_experiments.studies.fluctuation.study import FIXED, Settings
from gelato_experiments.study import Claim, Row

CAPPED = ("gelato", "ratio", "ratio_priced")
"""Methods with a queue."""
WORTH = 0.95
"""Share of a rate that is to be kept."""


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
            "of its tokens/s, prompts counted, in every world of another link or device",
            [row for row in right if row["method"] == "ratio" and row["kind"] in ("link", "device")],
            "of_retuned",
        ),
        _share_claim(
            "wrong constants and a wrong alpha(H) cost methods with a queue little",
            "of the calm world's tokens/s, prompts counted",
            [row for row in beliefs if row not in priors],
            "of_calm",
        ),
        _share_claim(
            "a wrong prior of acceptance is unlearnt",
            "of the calm world's tokens/s, prompts counted",
            priors,
            "of_calm",
        ),
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
