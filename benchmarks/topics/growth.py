"""How times grow: with channels, positions, sites and trials."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_se
from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work, plain_number
from benchmarks.harness.timing import measure as timed
from benchmarks.peers import layers
from benchmarks.peers.simulated import SEEDS, processor_seconds
from benchmarks.topics.block import BATCH, step
from keras_se.display.text import Part

TITLE = "Growth"
ABOUT = (
    "The layer forward as a `tf.function`, batch 8: channels on a map of 14x14, and positions with "
    "64 channels. Sites: a chain of convolutions of 16 channels on 16x16 with an SEBlock behind "
    "each. Trials: processor time of the parent up to that trial, in one search of 1,000 workers "
    "whose trials cost nothing, with every write synchronized."
)
CHANNELS, SIDES, SITES = (128, 256, 512, 1024, 2048), (7, 14, 28, 56, 112), (2, 4, 8, 16)
TRIALS = (250, 1000, 2000, 5000, 10_000)
QUICK = {CHANNELS: (16, 64), SIDES: (7, 14), SITES: (1, 2), TRIALS: (30, 60)}
WORKERS = 1000


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures what grows with each."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    channels, sides, sites, trials = (
        QUICK[sizes] if quick else sizes for sizes in (CHANNELS, SIDES, SITES, TRIALS)
    )
    by_channels = {c: forward((14, 14, c)) for c in channels}
    by_positions = {s * s: forward((s, s, 64)) for s in sides}
    return (
        grown("channels, forward", by_channels, rounds),
        grown("positions, forward", by_positions, rounds),
        *(grown(f"sites, {n}", works, rounds) for n, works in of_sites(sites).items()),
        of_trials(trials, 20 if quick else WORKERS),
    ), ()


def grown(name: str, works: dict[int, Work], rounds: int) -> Comparison:
    """Measures works by their size."""
    seconds = timed({f"{size:,}": work for size, work in works.items()}, rounds)
    return Comparison.of(name, seconds, facts={f"{size:,}": {"size": size} for size in works})


def forward(shape: tuple[int, ...]) -> Work:
    """A block on a map."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.se_block(inputs))
    x = tf.constant(np.random.default_rng(0).normal(size=(BATCH, *shape)).astype("float32"))
    return Work(step(model, x, x, trains=False, xla=False))


def chain(sites: int, layer: Any) -> Any:
    """A network of so many convolutions, with a layer behind each."""
    x = inputs = keras.Input((16, 16, 16))
    for _ in range(sites):
        x = layer(keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def of_sites(sizes: tuple[int, ...]) -> dict[str, dict[int, Work]]:
    """What depends on the number of sites."""
    x = np.random.default_rng(0).normal(size=(40, 16, 16, 16)).astype("float32")
    found: dict[str, dict[int, Work]] = {}
    for size in sizes:
        plain, gated = chain(size, layers.nothing), chain(size, layers.se_block)
        tflite = keras_se.to_tflite(gated, "float32")
        for name, work in {
            "find_sites": Work(keras_se.find_sites, lambda n=size: chain(n, layers.se_block)),
            "insert": Work(lambda m=plain: keras_se.insert(m)),
            "to_tflite": Work(lambda m=gated: keras_se.to_tflite(m, "float32", progress=False)),
            "read_gates": Work(lambda f=tflite: keras_se.read_gates(f, x, progress=False)),
            "verify": Work(lambda m=gated, f=tflite: keras_se.verify(m, f, x, progress=False)),
        }.items():
            found.setdefault(name, {})[size] = work
    return found


def of_trials(sizes: tuple[int, ...], workers: int) -> Comparison:
    """The bookkeeping of a search, from one run."""
    times = processor_seconds(sizes[-1] + SEEDS, workers)
    seconds = {f"{size:,}": (times[size - 1],) for size in sizes}
    facts = {
        f"{size:,}": {"size": size, "ms a trial": plain_number(1e3 * times[size - 1] / size)}
        for size in sizes
    }
    return Comparison.of("trials, bookkeeping", seconds, facts=facts)


def finding(topic: Topic) -> str:
    """The steepest, and what each trial costs."""
    found = {comparison.name: tabled.slope(comparison, 2) for comparison in topic.comparisons}
    name, most = max(found.items(), key=lambda item: item[1].median)
    trials = topic.comparisons[-1].variants[-1]
    return (
        f"The steepest slope at the greatest sizes is {tabled.number(most.median)} ({name}); 1 is "
        "growth in proportion. "
        f"Bookkeeping takes {trials.facts['ms a trial']:.2g} ms a trial of {trials.name}."
    )


def tables(topic: Topic) -> Iterator[Part]:
    """One table."""
    yield from tabled.of_growth(topic.comparisons)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """All of it relative to the least size."""
    yield drawing.growth("growth", topic.comparisons, "time over that of the least size")
