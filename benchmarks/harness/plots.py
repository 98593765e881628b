"""Plots of ratios and of growth, as SVG files on white, the same whenever they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import cycle
from typing import Any

from benchmarks.harness.results import Comparison
from benchmarks.harness.timing import Summary
from keras_se.display.plots import FAINT, INK, plot

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5d5d5d", "#8a6d00")
_MARKERS = "osD^vPX*"
_GREY = "#9a9a9a"


@dataclass(frozen=True)
class Plot:
    """A plot of a topic.

    Attributes:
        name: Name of its file, without the suffix.
        shows: What it shows, for those who hear the page.
        svg: The file.
    """

    name: str
    shows: str
    svg: str


def ratios(name: str, comparisons: Sequence[Comparison], axis: str) -> Plot:
    """Draws the ratios of some comparisons to their baselines, a row for each variant."""
    rows = [
        (variant, comparison.ratio(variant), colour)
        for comparison, colour in zip(comparisons, cycle(_COLOURS))
        for variant in comparison.names
        if variant != comparison.baseline
    ]
    labelled = len(comparisons) > 1
    with plot(7.0, 0.7 + 0.22 * (len(rows) + labelled * len(comparisons))) as axes:
        for n, (_, summary, colour) in enumerate(rows):
            _point(axes, summary, n, colour, "o", across=True)
        for comparison, colour in zip(comparisons, cycle(_COLOURS)):
            label = f"{comparison.name} (to {comparison.baseline})"
            axes.plot([], [], "o", color=colour, label=label)
        axes.axvline(1.0, color=_GREY, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _log(axes.xaxis, [summary for _, summary, _ in rows])
        axes.set_xlabel(axis)
        if labelled:
            axes.figure.legend(loc="outside lower center")
        return Plot(name, axis, _svg(axes, name))


def cases(name: str, comparisons: Sequence[Comparison], axis: str) -> Plot:
    """Draws the ratios of the same variants on many cases, side by side."""
    first = comparisons[0]
    variants = [variant for variant in first.names if variant != first.baseline]
    with plot(9.0, 3.6) as axes:
        for i, variant in enumerate(variants):
            for n, comparison in enumerate(comparisons):
                place = n + (i - (len(variants) - 1) / 2) * 0.8 / len(variants)
                summary = comparison.ratio(variant)
                _point(axes, summary, place, _COLOURS[i], _MARKERS[i], across=False)
            axes.plot([], [], _MARKERS[i], color=_COLOURS[i], label=variant)
        axes.axhline(1.0, color=_GREY, linewidth=0.8)
        names = [comparison.name for comparison in comparisons]
        for n in range(1, len(names)):
            if names[n] != names[n - 1]:
                axes.axvline(n - 0.5, color=_GREY, linewidth=0.6, linestyle=":")
        axes.set_xticks(range(len(names)), [c.case for c in comparisons], rotation=30, ha="right")
        for group in dict.fromkeys(names):
            middle = (names.index(group) + len(names) - 1 - names[::-1].index(group)) / 2
            axes.annotate(
                group, (middle, 1.0), (0, 3), textcoords="offset points", ha="center",
                xycoords=("data", "axes fraction"),
            )  # fmt: skip
        _log(axes.yaxis, [c.ratio(variant) for c in comparisons for variant in variants])
        axes.set_ylabel(axis)
        axes.figure.legend(ncols=len(variants), loc="outside lower center")
        return Plot(name, axis, _svg(axes, name))


def growth(name: str, comparisons: Sequence[Comparison], axis: str) -> Plot:
    """Draws times over sizes, both relative to the first, on axes of logarithms."""
    with plot(8.0, 4.0) as axes:
        largest = 1.0
        for i, comparison in enumerate(comparisons):
            sizes = [variant.facts["size"] for variant in comparison.variants]
            times = [Summary.of(variant.seconds) for variant in comparison.variants]
            x = [size / sizes[0] for size in sizes]
            y = [time.median / times[0].median for time in times]
            largest = max(largest, *x)
            axes.plot(
                x, y, color=_COLOURS[i], marker=_MARKERS[i], markersize=4, label=comparison.name
            )
        axes.plot([1, largest], [1, largest], color=_GREY, linestyle=":", label="in proportion")
        for line in (axes.xaxis, axes.yaxis):
            _decades(line)
        axes.set_xlabel("size over the least")
        axes.set_ylabel(axis)
        axes.figure.legend(loc="outside right upper")
        return Plot(name, axis, _svg(axes, name))


def _point(
    axes: Any, summary: Summary, place: float, colour: str, marker: str, across: bool
) -> None:
    errors = [[summary.median - summary.low], [summary.high - summary.median]]
    x, y = (summary.median, place) if across else (place, summary.median)
    bars = {"xerr" if across else "yerr": errors}
    axes.errorbar(x, y, **bars, fmt=marker, color=colour, markersize=4, linewidth=1.2)


def _log(axis: Any, summaries: Sequence[Summary]) -> None:
    """Makes an axis one of logarithms, with marks as dense as the ratios need."""
    from matplotlib.ticker import FixedLocator

    low = min([0.9, *(summary.low for summary in summaries)])
    high = max([1.1, *(summary.high for summary in summaries)])
    steps = (
        (1, 1.25, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 300 else (1,)
    )
    marks = [s * 10.0**power for power in range(-5, 6) for s in steps]
    marks += [0.8, 0.9] if high / low < 8 else []
    _decades(axis)
    axis.axes.set(**{f"{axis.axis_name}lim": (low * 0.95, high * 1.05)})
    axis.set_major_locator(FixedLocator(sorted(m for m in marks if low <= m <= high)))


def _decades(axis: Any) -> None:
    """Makes an axis one of logarithms, with plain numbers at the powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _svg(axes: Any, key: str) -> str:
    """Returns a figure as text that depends on nothing but what is drawn."""
    import matplotlib

    stream = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": key}):
        axes.figure.savefig(stream, format="svg", facecolor="white", metadata=nothing)
    lines = stream.getvalue().replace(INK, "#222222").replace(FAINT, _GREY).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"
