"""Learning curves and accuracies as SVG to be put inline into a page. The same input gives the same bytes."""

import dataclasses
import io
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib import axes, figure, lines, ticker

from cd_jax.report import table
from cd_jax.rundir import results as results_lib
from cd_jax.rundir.measures import Bin

Json = dict[str, Any]

# Okabe and Ito's palette, which the colour-blind tell apart; grey for the baseline, what others are held against.
_COLOURS = {"baseline": "#5f6b7a", "cd_finetune": "#0072b2", "cd_memory": "#d55e00"}
_OTHER_COLOURS = ("#009e73", "#cc79a7", "#b8860b", "#7b4fa3", "#56b4e9", "#8c564b")
_WIDTH, _HEIGHT = 4.8, 3.0  # inches: small, so that the labels stay readable on a telephone
_GROUP_WIDTH = 1.5  # inches for one task
_LABEL_WIDTH = 19  # characters below it
MOST_POINTS = 400  # of one line: more cannot be seen, but would make the page heavy
_MUTED = "#5b6470"
# Of probabilities, in their order; the last one is the score head's.
_DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, (4, 2)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, ()))
_STYLE = {
    "axes.edgecolor": "#9aa3ad",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#e6e9ed",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's typeface
    "svg.hashsalt": "cd_jax",  # otherwise ids are random
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.parse_math": False,  # a dollar sign in a task's name is no formula
    "ytick.left": False,
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
      arm: the arm that the run trained.
      seed: the run's seed.
      points: (step, value), by step.
    """

    arm: str
    seed: int
    points: Sequence[tuple[int, float]]


def colours(arms: Iterable[str]) -> dict[str, str]:
    """The colour of each arm, `#rrggbb`: the three arms of the comparison always have the same one."""
    ordered = sorted(set(arms), key=results_lib.arm_order)
    others = [arm for arm in ordered if arm not in _COLOURS]
    spare = {arm: _OTHER_COLOURS[index % len(_OTHER_COLOURS)] for index, arm in enumerate(others)}
    return {arm: _COLOURS.get(arm) or spare[arm] for arm in ordered}


def learning_curves(
    curves: Sequence[Curve], label: str, palette: dict[str, str], logarithmic: bool = False
) -> str | None:
    """One thin line for each run.

    Args:
      curves: the runs; those without a point are left out.
      label: what the values are, e.g. `training loss`.
      palette: `colours` of all arms of the page.
      logarithmic: for values that fall over orders of magnitude.

    Returns:
      An `<svg>` element, or None where there is nothing to draw.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    with matplotlib.style.context(["default", _STYLE]):
        chart, ax = _chart(_WIDTH)
        for curve in curves:
            _draw_curve(ax, curve, palette[curve.arm])
        if logarithmic:
            ax.set_yscale("log")
            # Its own labels are formulas, which are not set here.
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(ticker.NullFormatter())
        else:
            ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        ax.set_xlabel("step")
        _legend(chart, [curve.arm for curve in curves], palette)
        return _svg(chart, f"{label} by step, one line for each run")


def _draw_curve(ax: axes.Axes, curve: Curve, colour: str) -> None:
    steps, values = zip(*_thin(curve.points), strict=True)
    # A validation error has few points, and one of a single point would not show as a line.
    marker = "o" if len(steps) <= 25 else ""
    ax.plot(steps, values, color=colour, linewidth=1.1, alpha=0.85, marker=marker, markersize=2.6, clip_on=False)


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: the means of equally many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    bins = (points[start : start + size] for start in range(0, len(points), size))
    return [(statistics.fmean(step for step, _ in bin_), statistics.fmean(value for _, value in bin_)) for bin_ in bins]


def accuracy_chart(results: Json, palette: dict[str, str]) -> str | None:
    """A group of bars for each task, the source first: the mean of each arm, and a point for each seed.

    Args:
      results: the content of a results.json, or `results.merge(directory)`.
      palette: `colours` of all arms of the page.

    Returns:
      An `<svg>` element, or None where no run has an accuracy.
    """
    tasks, arms = table.columns(results), table.by_arm(results)
    if not tasks:
        return None
    with matplotlib.style.context(["default", _STYLE]):
        chart, ax = _chart(max(_WIDTH, 0.8 + _GROUP_WIDTH * len(tasks)))
        width = min(0.8 / len(arms), 0.26)
        for group, column in enumerate(tasks):
            for index, (arm, runs) in enumerate(arms.items()):
                found = [score for run in runs if (score := table.value(run, column)) is not None]
                centre = group + (index - (len(arms) - 1) / 2) * width
                _draw_bar(ax, centre, width, found, palette[arm])
        ax.set_xticks(range(len(tasks)), [_group_label(column) for column in tasks], color="#1f2630")
        ax.tick_params(axis="x", length=0)
        ax.set_xlim(-0.55, len(tasks) - 0.45)
        ax.set_ylim(0, 1.08)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        _legend(chart, arms, palette)
        return _svg(chart, "accuracy by task and arm: mean, and one point for each seed")


def _draw_bar(ax: axes.Axes, centre: float, width: float, found: list[float], colour: str) -> None:
    if not found:
        return
    mean = statistics.fmean(found)
    ax.bar(centre, mean, width * 0.88, color=colour, alpha=0.85, linewidth=0)
    if len(found) > 1:
        # Side by side by rank of the seed, so that equal accuracies do not hide one another.
        spread = [centre + width * 0.5 * (index / (len(found) - 1) - 0.5) for index in range(len(found))]
        ax.plot(spread, found, "o", markersize=3.4, mfc="white", mec="#1f2630", mew=0.8)
    ax.annotate(
        f"{mean:.2f}", (centre, max(found)), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8.5
    )


def _group_label(column: table.Column) -> str:
    role = f"{column.role}, {column.size}" if column.size else column.role
    # As wide as a group: how a sample was drawn takes several lines.
    return "\n".join(line for text in (column.task, role) for line in textwrap.wrap(text, _LABEL_WIDTH))


def reliability(bins: Mapping[tuple[str, str], Sequence[Bin]], palette: dict[str, str]) -> str:
    """A reliability diagram: the share of right answers by the probability that they were given.

    Args:
      bins: by arm and name of the probability.
      palette: `colours` of all arms of the page.

    Returns:
      An `<svg>` element.
    """
    names = list(dict.fromkeys(name for _, name in bins))
    with matplotlib.style.context(["default", _STYLE]):
        chart, ax = _chart(_WIDTH, _WIDTH)
        ax.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=":")
        for (arm, name), held in bins.items():
            total = sum(one.n for one in held)
            shown, style = palette[arm], _DASHES[names.index(name) % len(_DASHES)]
            points = [one.confidence for one in held], [one.accuracy for one in held]
            ax.plot(*points, color=shown, linewidth=1.1, linestyle=style, alpha=0.85)
            ax.scatter(*points, s=[6 + 90 * one.n / total for one in held], color=shown, alpha=0.6, linewidths=0)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability", ylabel="right answers")
        handles = [
            lines.Line2D([], [], color=palette[arm], linestyle=_DASHES[names.index(name) % len(_DASHES)],
                         label=f"{arm} {name}")
            for arm, name in bins
        ]  # fmt: skip
        chart.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=2.4, fontsize=8.5)
        return _svg(chart, "reliability: share of right answers by their probability")


def _chart(width: float, height: float = _HEIGHT) -> tuple[figure.Figure, axes.Axes]:
    # Not through pyplot, which keeps figures and a backend for the whole process.
    chart = figure.Figure(figsize=(width, height))
    return chart, chart.add_subplot()


def _legend(chart: figure.Figure, arms: Iterable[str], palette: dict[str, str]) -> None:
    ordered = sorted(set(arms), key=results_lib.arm_order)
    handles = [lines.Line2D([], [], color=palette[arm], linewidth=3, label=arm) for arm in ordered]
    chart.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 3), handlelength=1.2)


def _svg(chart: figure.Figure, label: str) -> str:
    """The figure as an element that scales with its container, down to where its labels would be too small."""
    buffer = io.StringIO()
    chart.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    width = chart.get_figwidth() * 72
    style = f"width:100%;min-width:{0.72 * width:.0f}pt;max-width:{1.3 * width:.0f}pt;height:auto"
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text[text.index("<svg") :].replace("\n", " "))
    text = re.sub(r"<metadata>.*?</metadata>", "", text)
    # The groups' ids (axes_1, ...) are the same in every figure and would clash in one page; nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1)
