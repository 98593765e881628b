"""Tables and words for times and their ratios."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.harness.results import Comparison
from benchmarks.harness.timing import Summary, slopes
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part

# Titles of facts in text of 80 columns.
_SHORT = {"operators": "ops", "partitions": "parts", "undelegated": "undel."}
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(seconds: float) -> str:
    """Returns seconds with three digits and their unit."""
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{_digits(seconds / size)} {unit}"


def number(value: float) -> str:
    """Returns a ratio or a slope with two decimals, a large one with fewer."""
    return f"{value:.2f}" if abs(value) < 10 else _digits(value)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(summary: Summary) -> str:
    """Returns the quartiles, or the range of a few values."""
    between = " to " if summary.low < 0 else "-"
    return f"{number(summary.low)}{between}{number(summary.high)}"


def interval(summary: Summary) -> str:
    """Returns the interval of the median, or a dash."""
    if summary.least is None or summary.most is None:
        return "-"
    return f"{number(summary.least)}-{number(summary.most)}"


def words(summary: Summary) -> str:
    """Returns a ratio with what can be said of it."""
    said = {-1: "less", 0: "no difference seen", 1: "more"}[summary.against(1.0)]
    if summary.least is None:
        return f"{number(summary.median)} ({spread(summary)})"
    return f"{number(summary.median)} ({interval(summary)}: {said})"


def listed(items: Iterable[str]) -> str:
    """Returns texts as a list in a sentence."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def of_comparison(comparison: Comparison, facts: Sequence[str] = ()) -> Iterator[Part]:
    """Yields what a comparison is, and its table: time, ratio, spread, interval, facts."""
    rows, variants = comparison.names, comparison.variants
    ratios = [comparison.ratio(name) for name in rows]
    rounds = ratios[0].rounds
    yield f"{_title(comparison)}, {rounds} rounds; ratios to {comparison.baseline}."
    yield Table(
        comparison.name,
        [
            names("", rows),
            Column("time", [duration(Summary.of(v.seconds).median) for v in variants]),
            Column("ratio", [number(ratio.median) for ratio in ratios]),
            Column("quartiles" if rounds >= 5 else "range", list(map(spread, ratios))),
            *([Column("95 %", list(map(interval, ratios)))] if rounds >= 6 else []),
            *(
                Column(fact, [_fact(v.facts.get(fact)) for v in variants], _SHORT.get(fact, ""))
                for fact in facts
            ),
        ],
    )


def of_cases(comparisons: Sequence[Comparison]) -> Iterator[Part]:
    """Yields a table for each name of comparisons: the ratios on each case, with quartiles."""
    for name in dict.fromkeys(comparison.name for comparison in comparisons):
        own = [comparison for comparison in comparisons if comparison.name == name]
        first = own[0]
        ratios = [[c.ratio(variant) for variant in first.names] for c in own]
        rounds = ratios[0][0].rounds
        kind = "quartiles" if rounds >= 5 else "range"
        yield f"{name}, {rounds} rounds; ratios to {first.baseline} with their {kind}."
        columns = [
            Column(c.case, [f"{number(r.median)} {spread(r)}" for r in column])
            for c, column in zip(own, ratios, strict=True)
        ]
        times = [duration(Summary.of(c[first.baseline].seconds).median) for c in own]
        yield Table(
            name,
            [
                names("", [*first.names, f"{first.baseline}, time"]),
                *(Column(c.title, [*c.cells, t]) for c, t in zip(columns, times, strict=True)),
            ],
        )


def slope(comparison: Comparison, last: int | None = None) -> Summary:
    """Sums up by how many powers of its size a comparison grows, over all or the last sizes."""
    variants = comparison.variants[-last if last else 0 :]
    return slopes([v.facts["size"] for v in variants], [v.seconds for v in variants])


def of_growth(comparisons: Sequence[Comparison]) -> Iterator[Part]:
    """Yields a table of what grows: times at the least and the greatest size, and slopes."""
    ends = [(c.variants[0], c.variants[-1]) for c in comparisons]
    found, last = ([slope(c, few) for c in comparisons] for few in (None, 2))
    yield (
        "Slopes of log time over log size: over all sizes, and from the last but one to the last "
        "with quartiles, where fixed costs weigh least. 1 is growth in proportion."
    )
    yield Table(
        "growth",
        [
            names("", [c.name for c in comparisons]),
            Column("sizes", [f"{a.name}-{b.name}" for a, b in ends]),
            Column("first", [duration(Summary.of(a.seconds).median) for a, _ in ends]),
            Column("last", [duration(Summary.of(b.seconds).median) for _, b in ends]),
            Column("slope", [number(s.median) for s in found]),
            Column("at the end", [number(s.median) for s in last], "end"),
            Column("quartiles", [spread(s) if s.rounds > 1 else "one run" for s in last]),
        ],
    )


def markdown(parts: Iterable[Part]) -> Iterator[str]:
    """Yields sentences and tables as paragraphs of Markdown."""
    for part in parts:
        if not isinstance(part, Table):
            yield _escaped(str(part))
            continue
        head = " | ".join(column.title for column in part.columns)
        sides = "|".join(":--" if column.is_words else "--:" for column in part.columns)
        rows = [f"| {' | '.join(map(_escaped, row))} |" for row in part.rows()]
        yield "\n".join([f"| {head} |", f"|{sides}|", *rows])


def _title(comparison: Comparison) -> str:
    return ", ".join(filter(None, (comparison.name, comparison.case)))


def _fact(value: Any) -> str:
    return "-" if value is None else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")
