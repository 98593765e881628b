"""Surgery on models, beside what Keras does to copy or build them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

import keras_se
from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work
from benchmarks.harness.timing import measure as timed
from benchmarks.peers import layers
from benchmarks.topics.litert import network
from keras_se.display.text import Part

TITLE = "Surgery"
ABOUT = (
    "ResNet50 (16 places for SE) and MobileNetV3Small (9 sites of its own), random weights. "
    "Copying is `keras.models.clone_model` and its weights, the least that a new model costs. "
    "`find_sites` is the first on a model that was just built."
)
COPY = "copying the model"


def copied(model: Any) -> Any:
    """A copy as Keras makes it, with the weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def networks(quick: bool) -> tuple[Any, Any]:
    """What builds a network without SE, and what builds one with SE."""
    if quick:
        return partial(network, layers.nothing, 16), partial(network, layers.convolutions, 16)
    applications = keras.applications
    small = partial(applications.MobileNetV3Small, weights=None, input_shape=(96, 96, 3))
    return partial(applications.ResNet50, weights=None), small


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures surgery on both networks."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    build, build_with_se = networks(quick)
    plain, given = build(), build_with_se()
    adopted = keras_se.adopt(given)
    inserting = {
        COPY: Work(lambda: copied(plain)),
        "find_sites": Work(keras_se.find_sites, prepare=build),
        "insert": Work(lambda: keras_se.insert(plain)),
    }
    adopting = {
        COPY: Work(lambda: copied(given)),
        "find_sites": Work(keras_se.find_sites, prepare=build_with_se),
        "adopt": Work(lambda: keras_se.adopt(given)),
        "remove": Work(lambda: keras_se.remove(adopted)),
    }
    names = ("network without SE", "network with SE") if quick else ("ResNet50", "MobileNetV3Small")
    return tuple(
        Comparison.of(name, timed(works, rounds), COPY)
        for name, works in zip(names, (inserting, adopting), strict=True)
    ), ()


def finding(topic: Topic) -> str:
    """What each operation costs over a copy."""
    said = []
    for comparison in topic.comparisons:
        names = [name for name in comparison.names if name != COPY]
        ratios = [f"{name} {tabled.words(comparison.ratio(name))}" for name in names]
        said.append(f"on {comparison.name} {tabled.listed(ratios)}")
    return f"Time over that of {COPY}: {'; '.join(said)}."


def tables(topic: Topic) -> Iterator[Part]:
    """A table a network."""
    for comparison in topic.comparisons:
        yield from tabled.of_comparison(comparison)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """All ratios."""
    yield drawing.ratios("surgery", topic.comparisons, f"time over that of {COPY}")
