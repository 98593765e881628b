"""What surgery costs against what Keras does itself; every figure a ratio taken in one run."""

import functools
import statistics
import time
from collections.abc import Callable

import keras
from rich.console import Console
from rich.table import Table

import keras_se

RUNS = 5


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def build() -> keras.Model:
    """The network of the benchmark."""
    return keras.applications.ResNet50(weights=None)


def clone(model: keras.Model) -> keras.Model:
    """A copy as Keras makes it, with the weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def ratios(work: Callable[[], object], reference: Callable[[], object]) -> list[float]:
    """Work against reference, taken in turn."""
    return [seconds(work) / seconds(reference) for _ in range(RUNS)]


def main() -> None:
    """Prints the table."""
    model = build()
    clone(model)  # the first call of anything is dearer
    keras_se.insert(model)
    measured = {
        "insert / (clone_model + weights)": ratios(
            lambda: keras_se.insert(model), lambda: clone(model)
        ),
        "first find_sites / building the model": [
            seconds(functools.partial(keras_se.find_sites, build())) / seconds(build)
            for _ in range(RUNS)
        ],
    }
    table = Table("ResNet50", "median", "lowest", "highest", "runs")
    for name, values in measured.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures), str(RUNS))
    Console().print(table)


if __name__ == "__main__":
    main()
