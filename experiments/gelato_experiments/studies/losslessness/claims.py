"""What the study `losslessness` claims."""

from collections.abc import Sequence

from gelato_experiments.benchmarks import law
from gelato_experiments.studies.losslessness.study import Settings
from gelato_experiments.study import Claim, Row


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """Sound ones pass, mutants do not."""
    sound = [row for row in rows if row["kind"] == "sound" or row["mutant"] == "none"]
    bent = [row for row in rows if row["kind"] == "mutant" and row["mutant"] != "none"]
    worst = max(sound, key=lambda row: row["z"])
    gap = max(row["tv"] - row["tv_floor"] for row in sound)
    result = [
        Claim(
            claim=f"{_words(sound)} keep the target's law",
            required=f"z under {law.LIMIT_Z:g} in each of {len(sound)} checks",
            measured=f"at most {worst['z']:.2f} ({worst['payload']}, {worst['controller']}, {worst['length_exit']}), "
            f"{worst['texts']:,} texts; total variation at most {gap:+.4f} from what sampling alone gives",
            holds=worst["z"] < law.LIMIT_Z,
        )
    ]
    if bent:
        least = min(bent, key=lambda row: row["z"])
        result.append(
            Claim(
                claim="Decoders with one mistake are caught by the same check",
                required=f"z over {law.LIMIT_Z:g} for each of {len(bent)} mistakes",
                measured=f"at least {least['z']:.1f} ({least['mutant']}), "
                f"total variation {least['tv']:.4f} where sampling alone gives {least['tv_floor']:.4f}",
                holds=least["z"] > law.LIMIT_Z,
            )
        )
    return result


def _words(rows: Sequence[Row]) -> str:
    """How many payloads, controllers and exits the sound rows have."""
    counts = [(len({row[name] for row in rows}), name) for name in ("payload", "controller", "length_exit")]
    return ", ".join(f"{count} {name.replace('_', ' ')}s" for count, name in counts)
