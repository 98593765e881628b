"""Measures topics, each in a process of its own."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks.harness.results import Topic
from keras_se.errors import reason


def measured(name: str, quick: bool) -> Topic:
    """Measures a topic in this process."""
    started = time.monotonic()
    comparisons, missing = Topic(name, 0.0, ()).module.measure(quick)
    return Topic(name, round(time.monotonic() - started, 1), comparisons, missing)


def measured_apart(name: str, quick: bool) -> Topic:
    """Measures a topic in a process of its own, where others have left nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(measured, name, quick).result()
        except Exception as error:  # the other topics are measured nevertheless
            return Topic(name, 0.0, (), failure=f"{type(error).__name__}: {reason(error)}")


def all_measured(names: Sequence[str], quick: bool, apart: bool = True) -> Iterator[Topic]:
    """Yields topics as they are measured, and prints each."""
    for name in names:
        topic = (measured_apart if apart else measured)(name, quick)
        print(f"{topic}\n{name}: {topic.seconds:.0f} s\n", flush=True)
        yield topic
