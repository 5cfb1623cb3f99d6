"""What the study `real_loop` claims."""

from collections.abc import Sequence

from gelato_experiments.studies.real_loop.study import DEPTH, GREEDY, SAMPLED, Settings
from gelato_experiments.study import Claim, Row


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """The text is the target's; replay is exact where it says so, and near where it does not."""
    greedy = [row for row in rows if row["part"] != SAMPLED]
    different, ties = (sum(row[name] for row in greedy) for name in ("texts_differ", "texts_tie"))
    exact = [row for row in rows if row["part"] == GREEDY]
    worst = max(max(abs(row["tokens_per_s_off"]), abs(row["energy_off"])) for row in exact)
    counts = sum(row["counts_differ"] for row in exact)
    found = [
        Claim(
            claim="Greedy text of the real pair is the target's own, whatever the method",
            required="no text differs but by a tie of two logits",
            measured=f"{different} of {sum(row['texts'] for row in greedy)} differ, {ties} of them at a tie",
            holds=different == ties,
        ),
        Claim(
            claim="Greedy rounds at one depth replay as the real loop runs them",
            required="the same counts in every text; tokens/s and joules, prompts counted, within "
            f"{settings.exact:.1%}",
            measured=f"counts differ in {counts} of {sum(row['texts'] for row in exact)} texts; {worst:.2g} off",
            holds=counts <= ties and worst <= settings.exact,
        ),
    ]
    for part, name in ((SAMPLED, "Sampled rounds"), (DEPTH, "Rounds whose depth is chosen by token")):
        found.append(_near(name, [row for row in rows if row["part"] == part], settings.near))
    return found


def _near(name: str, rows: Sequence[Row], near: float) -> Claim:
    figures = ("tokens_per_s", "energy")
    words = [
        f"{row['method']} {row['tokens_per_s_off']:+.1%} (+-{row['tokens_per_s_half']:.1%}) tokens/s, "
        f"{row['energy_off']:+.1%} (+-{row['energy_half']:.1%}) joules"
        for row in rows
    ]
    # What sampling leaves open is neither: too few texts to say so much.
    apart = [(abs(row[f"{figure}_off"]), row[f"{figure}_half"]) for row in rows for figure in figures]
    holds: bool | None = all(off - half <= near for off, half in apart)
    if holds and any(half > near for _, half in apart):
        holds, words = None, [*words, "too few texts to judge"]
    return Claim(
        claim=f"{name} replay nearly as the real loop runs them",
        required=f"tokens/s and joules a token within {near:.0%}, beyond the 95 % interval of sampling",
        measured="; ".join(words),
        holds=holds,
    )
