"""The result of a search as a page of HTML."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_se.display.page import page
from keras_se.display.plots import FAINT, FIRST, INK, SECOND, plot, svg
from tuning.report import text
from tuning.report.candidates import Candidate, candidates, levels, pareto_front
from tuning.report.curves import read_curve

if TYPE_CHECKING:
    from tuning.deployed.record import DeployedRecord
    from tuning.result import SearchResult

_NAMES = {"parameters": "parameters", "flops": "FLOPs"}
_HALF, _WIDE = (3.8, 2.9), (7.6, 3.4)  # inches of one of two plots in a row, and of one alone
_CURVES = 6  # candidates whose learning curves are drawn
_STYLES = ("-", "--", ":", "-.")


def search_page(result: "SearchResult") -> str:
    """Returns the page of a search."""
    found = candidates(result)
    name = "" if result.folder is None else f" {result.folder.resolve().name}"
    return page(
        "search/page.html",
        title=f"Search{name}: {result.chosen}",
        name=name,
        result=result,
        conclusion=list(text.conclusion(result)),
        remarks=list(text.remarks(result)),
        candidates=text.candidates_table(result, found),
        files=text.files_table(result) if result.deployed else None,
        plots=list(_plots(result, found)),
        failures=text.failures_table(result),
        seconds=math.fsum(record.seconds for record in result.records),
    )


def _plots(result: "SearchResult", found: list[Candidate]) -> Iterator[dict[str, Any]]:
    """Yields the plots with their headings and captions."""
    finished = [each for each in found if each.scores]
    marked = f"The one that is {text.role(result)} is marked."
    sizes = [
        size
        for size in ("parameters", "flops")
        if finished and all(getattr(each, size) is not None for each in finished)
    ]
    if sizes:
        yield {
            "title": f"{result.metric} against {' and '.join(_NAMES[size] for size in sizes)}",
            "plots": [_front(result, found, n, _HALF if sizes[1:] else _WIDE) for n in sizes],
            "caption": "Small dots: single seeds. The line is the Pareto front: candidates that no "
            "other beats in both. " + marked,
        }
    if timed := [r for r in result.deployed if r.metric is not None and r.latency is not None]:
        yield {
            "title": f"{result.metric} as a file against latency and size",
            "plots": [_files(result, timed, "latency"), _files(result, timed, "bytes")],
            "caption": f"Bars: quartiles of the latency. Crosses: files that are out. {marked}",
        }
    if by_name := levels(found):
        form = _HALF if len(by_name) > 1 else _WIDE
        yield {
            "title": "Effects",
            "plots": [_effect(result, name, scores, form) for name, scores in by_name.items()],
            "caption": "Dots: trainings with this value. Line: their mean; it mixes what else "
            "differs between them.",
        }
    if curves := _curves(result, found):
        yield {
            "title": "Learning curves",
            "plots": [curves],
            "caption": f"{result.metric} by epoch, mean over seeds, of the candidate that is "
            f"{text.role(result)} and of the best others.",
        }


def _front(
    result: "SearchResult", found: list[Candidate], size: str, form: tuple[float, float]
) -> str:
    front = pareto_front(found, result.direction, (size,))
    place = {c.label: (getattr(c, size), c.mean) for c in found if c.scores}
    with plot(*form) as axes:
        for each in found:
            if each.scores:
                x = place[each.label][0]
                axes.scatter([x] * len(each.scores), each.scores, s=8, color=FAINT, linewidth=0)
                axes.scatter(*place[each.label], s=26, color=FIRST, linewidth=0)
        axes.plot(*zip(*(place[c.label] for c in front), strict=True), color=FIRST, lw=1)
        if result.chosen in place:
            _mark(axes, result.chosen, place[result.chosen])
        axes.set(xlabel=_NAMES[size], ylabel=result.metric)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(nbins=4)  # long numbers
        sizes = [x for x, _ in place.values()]
        return svg(
            axes,
            f"front {size}",
            f"Mean {result.metric} of {len(place)} candidates against their {_NAMES[size]}, from "
            f"{min(sizes):,} to {max(sizes):,}; {len(front)} are on the Pareto front.",
        )


def _mark(axes: Any, label: str, place: tuple[float, float]) -> None:
    """Marks the chosen candidate, with its name inside of the plot."""
    axes.scatter(*place, s=110, facecolor="none", edgecolor=SECOND, linewidth=2)
    is_right = 2 * place[0] > sum(axes.get_xlim())  # on whichever side there is room
    axes.annotate(
        label,
        place,
        xytext=(-9 if is_right else 9, 8),
        textcoords="offset points",
        ha="right" if is_right else "left",
        color=INK,
    )


def _files(result: "SearchResult", timed: Sequence["DeployedRecord"], cost: str) -> str:
    scale, unit, name = {"latency": (1.0, "ms", "latency"), "bytes": (1e-3, "kB", "size")}[cost]
    with plot(*_HALF) as axes:
        for each in timed:
            place = (scale * getattr(each, cost), each.metric)
            if cost == "latency":
                quartiles = (each.latency_low, each.latency_high)
                axes.plot(quartiles, [each.metric] * 2, color=FAINT, linewidth=3, zorder=0)
            axes.scatter(*place, s=30, color=FIRST, marker="o" if each.passed else "x")
            if each.label == result.chosen:
                axes.scatter(*place, s=110, facecolor="none", edgecolor=SECOND, linewidth=2)
        axes.set(xlabel=unit, ylabel=result.metric)
        said = ", ".join(
            f"{r.label} {r.metric:.4g} at {scale * getattr(r, cost):.3g} {unit}" for r in timed
        )
        return svg(axes, f"files {cost}", f"{result.metric} as a file against {name}: {said}.")


def _effect(
    result: "SearchResult",
    name: str,
    by_value: dict[object, list[float]],
    form: tuple[float, float],
) -> str:
    shown = sorted(by_value.items(), key=lambda item: _in_order(item[0]))
    with plot(*form) as axes:
        for place, (_, scores) in enumerate(shown):
            axes.scatter([place] * len(scores), scores, s=10, color=FAINT, linewidth=0)
        means = [float(np.mean(scores)) for _, scores in shown]
        axes.plot(means, color=FIRST, marker="o", markersize=4, linewidth=1)
        axes.set_xticks(range(len(shown)), [str(value) for value, _ in shown])
        axes.set(ylabel=result.metric, xlabel=name.removeprefix("se_"))
        said = ", ".join(
            f"{value} {mean:.4g}" for (value, _), mean in zip(shown, means, strict=True)
        )
        return svg(axes, f"effect {name}", f"Mean {result.metric} by {name}: {said}.")


def _in_order(value: object) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value)


def _curves(result: "SearchResult", found: list[Candidate]) -> str:
    """Returns the plot of the learning curves; empty if there are none."""
    if result.folder is None:
        return ""
    shown = [c for c in text.ordered(result, found) if c.scores][:_CURVES]
    means = {c.label: mean for c in shown if len(mean := _mean_curve(result, c))}
    if not means:
        return ""
    with plot(*_WIDE) as axes:
        for number, (label, mean) in enumerate(means.items()):
            is_chosen = label == result.chosen
            colour, width = (SECOND, 2.2) if is_chosen else (FIRST, 1.1)
            epochs, style = range(1, len(mean) + 1), _STYLES[number % len(_STYLES)]
            axes.plot(epochs, mean, color=colour, linewidth=width, linestyle=style, label=label)
        axes.legend(loc="best", fontsize="small")
        axes.set(xlabel="epoch", ylabel=result.metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
        return svg(axes, "curves", f"{result.metric} by epoch of {', '.join(means)}.")


def _mean_curve(result: "SearchResult", candidate: Candidate) -> np.ndarray:
    """Returns the mean score by epoch, as far as all seeds got."""
    read = [read_curve(Path(result.folder or "", r.curve)) for r in candidate.records if r.curve]
    curves = [[epoch["score"] for epoch in curve] for curve in read if curve]
    length = min(map(len, curves), default=0)
    return np.mean([curve[:length] for curve in curves], axis=0) if length else np.zeros(0)
