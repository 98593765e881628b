"""RESULTS.md, made of results and of nothing else."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.environment import Environment
from benchmarks.harness.results import Results, Topic
from benchmarks.harness.tables import markdown
from benchmarks.topics import TOPICS

NAME, PLOTS = "RESULTS.md", "plots"


def page(results: Results) -> str:
    """Returns the page."""
    minutes = sum(topic.seconds for topic in results.topics) / 60
    parts = [
        "# Benchmarks",
        f"Written by `{_command(results)}`, which took {max(1, round(minutes))} minutes. "
        "Numbers, sentences and plots are of one run, whose every time is in `results.json`.",
        *(
            ["**A quick run: it shows that all works, and its numbers mean little.**"]
            * results.quick
        ),
        *_environment(results.environment),
        "Variants of a table run in one process, in turn, round by round, after a call that traces "
        "and compiles. A ratio is taken in each round, so that what slows the machine for a while "
        "slows both sides. Shown are the medians, the quartiles, and *95 %*: an interval that "
        "holds the true median with at least that probability, whatever the distribution (the "
        "ordered ratios, by the binomial distribution). *More* or *less* is said where that "
        "interval leaves out 1; of many such intervals one in twenty may miss. Times "
        "are of this machine; ratios carry over better.",
    ]
    for topic in results.topics:
        parts += _section(topic)
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path) -> list[Path]:
    """Writes the page and its plots, and returns their paths."""
    files = {folder / NAME: page(results).encode()}
    for topic in results.topics:
        if not topic.failure:
            for plot in topic.module.plots(topic):
                files[folder / PLOTS / f"{plot.name}.svg"] = plot.svg.encode()
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(files)


def _command(results: Results) -> str:
    names = [topic.name for topic in results.topics]
    words = ["--quick"] * results.quick + (names if len(names) < len(TOPICS) else [])
    return " ".join(["python -m benchmarks", *words])


def _environment(found: Environment) -> Iterator[str]:
    packages = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in found.packages.items()
    )
    load = "" if found.load < 0.5 else " **The machine was not idle.**"
    yield (
        f"{found.date}; {found.processor}, {found.cores} cores; {found.system}; "
        f"Python {found.python}; {packages}. Load before the run: {found.load}.{load}"
    )


def _section(topic: Topic) -> Iterator[str]:
    yield f"## {topic.title}"
    if topic.failure:
        yield f"Not measured: {topic.failure}"
        return
    yield f"**{next(markdown([topic.module.finding(topic)]))}**"
    yield topic.module.ABOUT
    for plot in topic.module.plots(topic):
        yield f"![{plot.shows}]({PLOTS}/{plot.name}.svg)"
    yield from markdown(topic.module.tables(topic))
    yield from markdown(topic.missing)
