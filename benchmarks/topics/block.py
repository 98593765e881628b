"""The layer itself, beside hand compositions, layers of packages, and what memory allows."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Summary, Work
from benchmarks.harness.timing import measure as timed
from benchmarks.peers import layers
from keras_se.display.text import Part

TITLE = "The layer"
ABOUT = (
    "One SE block on the maps of the four stages of SE-ResNet-50, batch 8, float32, as a "
    "`tf.function`. Forward is the output; training is the output and the gradients for the map "
    "and all weights. All variants have the same weights and are checked to compute the same. "
    "*memory floor* reads the map twice and writes it once, multiplied by its means: what any SE "
    "does but for the excitation."
)
MAPS = ((56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048))
QUICK_MAPS = ((14, 14, 64), (7, 7, 128))
BATCH = 8
MODES = {
    "forward": (False, False),
    "forward, XLA": (False, True),
    "training": (True, False),
    "training, XLA": (True, True),
}  # whether it trains, and by XLA


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures every mode on every map."""
    peers, missing = layers.available()
    maps, found = QUICK_MAPS if quick else MAPS, {}
    for shape in maps:
        models = networks(shape, peers)
        rng = np.random.default_rng(0)
        x, slope = (
            tf.constant(rng.normal(size=(BATCH, *shape)).astype("float32")) for _ in range(2)
        )
        for mode, (trains, xla) in MODES.items():
            works = {n: Work(step(m, x, slope, trains, xla)) for n, m in models.items()}
            seconds = timed(works, QUICK_ROUNDS if quick else ROUNDS)
            case = "x".join(map(str, shape))
            found[mode, case] = Comparison.of(mode, seconds, layers.SE_BLOCK, case)
    order = sorted(found, key=lambda key: list(MODES).index(key[0]))
    return tuple(found[key] for key in order), missing


def networks(shape: tuple[int, ...], peers: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """A model of one block for each peer, and the floor."""
    models = {}
    for name, layer in {**peers, layers.FLOOR: layers.floor}.items():
        inputs = keras.Input(shape)
        models[name] = keras.Model(inputs, layer(inputs))
    layers.with_same_weights({name: models[name] for name in peers})
    return models


def step(model: Any, x: Any, slope: Any, trains: bool, xla: bool) -> Callable[[], object]:
    """One forward step, or one with the gradients for the map and the weights."""

    @tf.function(jit_compile=xla)
    def forward(x: Any, unused: Any) -> Any:
        return model(x, training=False)

    @tf.function(jit_compile=xla)
    def train(x: Any, slope: Any) -> Any:
        variables = [weight.value for weight in model.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        return y, tape.gradient(y, [x, *variables], output_gradients=slope)

    function = train if trains else forward
    return lambda: function(x, slope)


def finding(topic: Topic) -> str:
    """How each variant does over all cases, and where others win."""
    first = topic.comparisons[0]
    said = []
    for name in first.names:
        if name == first.baseline:
            continue
        ratios = [comparison.ratio(name) for comparison in topic.comparisons]
        sides = [ratio.against(1.0) for ratio in ratios]
        middle = Summary.of([ratio.median for ratio in ratios]).median
        less, more = sides.count(-1), sides.count(1)
        said.append(f"{name} {tabled.number(middle)} (less in {less}, more in {more})")
    best = min(
        ((c.ratio(n).median, n, c) for c in topic.comparisons for n in peers(first)),
        key=lambda item: item[0],
    )
    return (
        f"Time over that of {first.baseline}, median of {len(topic.comparisons)} cases: "
        f"{tabled.listed(said)}. The least ratio of a peer is {tabled.number(best[0])}: "
        f"{best[1]}, {best[2].name} on {best[2].case}."
    )


def peers(comparison: Comparison) -> list[str]:
    """The variants that are SE blocks of others."""
    return [n for n in comparison.names if n not in (comparison.baseline, layers.FLOOR)]


def tables(topic: Topic) -> Iterator[Part]:
    """A table a mode."""
    yield from tabled.of_cases(topic.comparisons)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """All ratios side by side."""
    yield drawing.cases(
        "block", topic.comparisons, f"time over that of {topic.comparisons[0].baseline}"
    )
