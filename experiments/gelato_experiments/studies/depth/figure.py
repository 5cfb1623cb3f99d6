"""The figure of the study `depth`."""

from typing import TYPE_CHECKING, Any

from gelato_experiments import figures
from gelato_experiments.studies.depth.claims import NEEDED
from gelato_experiments.studies.depth.study import BY_TOKEN, Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Joules a token against tokens per second, a panel for each length rule; below, what is saved."""
    figure, axes = figures.new_figure(2, len(BY_TOKEN), sharex="col")
    for column, length_rule in enumerate(BY_TOKEN):
        _draw_curves(axes[0, column], [row for row in rows if row["length_rule"] == length_rule], length_rule)
        _draw_savings(axes[1, column], [row for row in rows if row["length_rule"] == length_rule])
    axes[0, 0].set_ylabel("mJ a token, prompts counted")
    axes[1, 0].set_ylabel("joules saved (%)")
    for ax in axes[1]:
        ax.set_xlabel("modelled tokens/s, prompts counted")
    return figure


_COLORS = {"entropy": figures.VERMILLION, "priced": figures.GREEN}


def _draw_curves(ax: "Axes", rows: list[Row], length_rule: str) -> None:
    points = [row for row in rows if row["kind"] == "point"]
    exits = sorted({row["value"] for row in points if row["depth"] == "fixed"})
    lines: list[tuple[str, list[Row], Any, str]] = [
        (
            f"exit {int(exit)}, all tokens",
            [row for row in points if row["depth"] == "fixed" and row["value"] == exit],
            color,
            "-",
        )
        for exit, color in zip(exits, (figures.SKY, figures.BLUE, figures.PURPLE, figures.GREY), strict=False)
    ]
    for depth in BY_TOKEN[length_rule]:
        chosen = [row for row in points if row["depth"] == depth and row["chosen"]]
        lines.append((f"{depth}, by token", chosen, _COLORS[depth], "--"))
    for name, members, color, look in lines:
        members = sorted(members, key=lambda row: row["power_w"])
        x, y = [row["tokens_per_s"] for row in members], [1e3 * row["energy_per_token_j"] for row in members]
        ax.plot(x, y, look, color=color, marker="o", markersize=3.5)
        figures.label_line(ax, x[-1], y[-1], name, color)
    ax.set_title({"static": "Fixed draft lengths", "ratio_priced": "ratio, priced lengths, by cap"}[length_rule])


def _draw_savings(ax: "Axes", rows: list[Row]) -> None:
    ax.axhline(0.0, color="0.4", linewidth=0.8)
    ax.axhline(100 * NEEDED, color=figures.GREY, linestyle=":", linewidth=1.2)
    for depth, color in _COLORS.items():
        own = [row for row in rows if row["kind"] == "saving" and row["depth"] == depth]
        if own:
            x = [row["tokens_per_s"] for row in own]
            ax.errorbar(x, [100 * row["saved"] for row in own], [100 * row["saved_half"] for row in own], color=color)
            figures.label_line(ax, x[-1], 100 * own[-1]["saved"], f"{depth}, by token", color)
