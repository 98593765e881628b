"""Measures keras_se beside what others write, and writes RESULTS.md with its plots.

    python -m benchmarks                  all topics: 15 rounds each, about 25 minutes on two cores
    python -m benchmarks --quick          the same on small sizes, three rounds, some minutes
    python -m benchmarks block litert     some topics
    python -m benchmarks --again          the page once more, from results.json or --json FILE

A full run writes into `benchmarks`; a quick one, or one of some topics, into `runs/benchmarks`.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.topics import TOPICS

FOLDER, ELSEWHERE = Path(__file__).parent, Path("runs/benchmarks")
JSON = "results.json"


def topic(name: str) -> str:
    """A name that is one of a topic."""
    if name not in TOPICS:
        raise argparse.ArgumentTypeError(f"TOPIC must be one of {TOPICS}. Received: {name!r}")
    return name


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("topics", nargs="*", type=topic, metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--quick", action="store_true", help="small sizes and three rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"beside {JSON} of the folder")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the page is written")
    parser.add_argument("--again", action="store_true", help="measure nothing, read the JSON file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, apart: bool = True) -> int:
    """Runs the command line; 1 if a topic failed.

    `apart`: whether each topic has a process of its own.
    """
    given = parsed(arguments)
    from benchmarks.harness.environment import Environment
    from benchmarks.harness.page import write
    from benchmarks.harness.results import Results
    from benchmarks.harness.running import all_measured

    folder = given.output or (ELSEWHERE if given.quick or given.topics else FOLDER)
    paths = [folder / JSON, *([given.json] if given.json else [])]
    if not given.again:
        names = [name for name in TOPICS if name in given.topics or not given.topics]
        here = Environment.here()
        results = Results(given.quick, here, tuple(all_measured(names, given.quick, apart)))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(results.to_json())
    # Of the file, so that the page holds nothing that the file does not.
    results = Results.from_dict(json.loads(paths[-1].read_text()))
    print("Results:", *paths, *write(results, folder), sep="\n  ")
    return int(any(found.failure for found in results.topics))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
