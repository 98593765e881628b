"""What `import keras_se` adds to `import keras`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work
from benchmarks.harness.timing import measure as timed
from keras_se.display.text import Part

TITLE = "Import"
ABOUT = "Each in a process of its own, from its start to its end, with its files in memory."
ROOT = Path(__file__).parents[2]
KERAS, OWN, HELP = "import keras", "import keras_se", "keras-se --help"
SOURCES = {
    KERAS: "import keras",
    OWN: "import keras_se",
    HELP: "import sys; sys.argv[1:] = ['--help']; from tuning.cli import main; main()",
    "python alone": "pass",
}


def run(source: str) -> None:
    """Runs a program to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", source]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, env=environment, **quiet)


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures every program."""
    works = {name: Work(run, lambda source=source: source) for name, source in SOURCES.items()}
    seconds = timed(works, QUICK_ROUNDS if quick else ROUNDS)
    return (Comparison.of("start of a process", seconds, KERAS),), ()


def finding(topic: Topic) -> str:
    """What importing adds, and how long the help takes."""
    comparison = topic.comparisons[0]
    return (
        f"{OWN} takes {tabled.words(comparison.ratio(OWN))} of the time of {KERAS}, "
        f"{HELP} {tabled.words(comparison.ratio(HELP))}."
    )


def tables(topic: Topic) -> Iterator[Part]:
    """One table."""
    yield from tabled.of_comparison(topic.comparisons[0])


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """The ratios."""
    yield drawing.ratios("imports", topic.comparisons, f"time over that of {KERAS}")
