"""Searches of trials that take seconds, beside keras-tuner's own loop."""

from collections.abc import Iterator

from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import Summary
from benchmarks.peers import trials
from keras_se.display.text import Part

TITLE = "Search"
ABOUT = (
    "Whole searches: candidates on two seeds, one thread a trial, by keras-tuner's exhaustive "
    "search in this process, by `tuning.search` in this process, in two slots, and in slots beside "
    "two workers of a Dask cluster on this machine. The start of slots counts, that of the cluster "
    "does not. A search is too long for many rounds: there are two, once forwards and once "
    "backwards, so that there is a range and no interval. *Again* is the same call once its "
    "records are there. *Processor* and *wall* are medians of the trainings but the first of each "
    "process: where trainings beside each other are slower, it is seen there."
)
FACTS = ("processor", "wall")
UNITS, SECONDS, ROUNDS = (8, 9, 10), 10.0, 2
QUICK_UNITS, QUICK_SECONDS = (8, 9), 0.5


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures each way, two rounds of them."""
    trials.one_thread()
    units, length = (QUICK_UNITS, QUICK_SECONDS) if quick else (UNITS, SECONDS)
    ways = (trials.KERAS_TUNER, trials.INLINE, trials.TWO) if quick else trials.WAYS
    epochs = trials.epochs_of(length)
    seconds: dict[str, list[float]] = {}
    later: dict[str, list[tuple[float, float]]] = {}
    for n in range(1 if quick else ROUNDS):
        for name, took, times in trials.run(units, epochs, ways if n % 2 == 0 else ways[::-1]):
            seconds.setdefault(name, []).append(took)
            later.setdefault(name, []).extend(times)
    facts = {name: dict(zip(FACTS, medians(times), strict=True)) for name, times in later.items()}
    count = len(units) * len(trials.SEEDS)
    name = f"{count} trainings of {length:g} s"
    return (Comparison.of(name, seconds, trials.KERAS_TUNER, facts=facts),), ()


def medians(times: list[tuple[float, float]]) -> list[str | None]:
    """The medians of processor and wall times of trainings, as texts."""
    if not times:
        return [None, None]
    return [f"{Summary.of(values).median:.1f} s" for values in zip(*times, strict=True)]


def finding(topic: Topic) -> str:
    """What each way takes of keras-tuner's time."""
    comparison = topic.comparisons[0]
    names = [n for n in comparison.names if n not in (comparison.baseline, trials.AGAIN)]
    said = [f"{name} {tabled.words(comparison.ratio(name))}" for name in names]
    return f"Time over that of {comparison.baseline}, {comparison.name}: {tabled.listed(said)}."


def tables(topic: Topic) -> Iterator[Part]:
    """One table."""
    yield from tabled.of_comparison(topic.comparisons[0], FACTS)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """The ratios of whole searches."""
    comparison = topic.comparisons[0]
    kept = tuple(v for v in comparison.variants if v.name != trials.AGAIN)
    shown = Comparison(comparison.name, "", comparison.baseline, kept)
    yield drawing.ratios("search", [shown], f"time over that of {comparison.baseline}")
