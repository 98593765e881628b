"""A search of a network whose training takes seconds, by keras-tuner and by tuning.search."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

import tuning

SEEDS = (0, 1)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(512, 16, 16, 3)).astype("float32"), RNG.integers(0, 3, 512)
KERAS_TUNER, INLINE, AGAIN = "keras-tuner", "inline", "inline, again"
TWO, DASK = "two workers", "Dask, two workers"
WAYS = (KERAS_TUNER, INLINE, TWO, DASK)


class Network(keras_tuner.HyperModel):
    """A network whose training takes about as long as was asked for; it notes its own cost."""

    def __init__(self, units: tuple[int, ...], epochs: int, log: str) -> None:
        super().__init__()
        self.units, self.epochs, self.log = units, epochs, log

    def build(self, hp: Any) -> keras.Model:
        """Three convolutions and a layer of as many units as are searched."""
        units = hp.Choice("units", list(self.units))
        layers = [keras.layers.Conv2D(16, 3, activation="relu") for _ in range(3)]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(units, "relu")]
        model = keras.Sequential([keras.Input((16, 16, 3)), *layers, *head, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, jit_compile=False)
        return model

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Trains, and appends its processor time and its wall time to the log."""
        started, processor = time.monotonic(), time.process_time()
        kwargs.update(epochs=self.epochs, verbose=0)
        history = model.fit(*args, **kwargs)
        took = (time.process_time() - processor, time.monotonic() - started)
        with open(self.log, "a") as file:
            file.write(" ".join(map(str, (os.getpid(), *took))) + "\n")
        return history


def one_thread() -> None:
    """Gives this process one thread, as a slot has; before the first operation of TensorFlow."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def epochs_of(seconds: float) -> int:
    """The number of epochs that take so long in this process."""
    network = Network((8,), 1, os.devnull)
    model = network.build(keras_tuner.HyperParameters())
    network.fit(None, model, X, Y)  # traces
    started = time.monotonic()
    network.fit(None, model, X, Y)
    return max(1, round(seconds / (time.monotonic() - started)))


def run(units: tuple[int, ...], epochs: int, ways: tuple[str, ...]) -> Iterator[tuple]:
    """Yields the name, the seconds, and what `later` says of the trials, way by way."""
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            log, own = Path(folder, f"log {way}"), str(Path(folder, way))
            network = Network(units, epochs, str(log))
            with ExitStack() as stack:
                search = searched(network, own, way, stack)
                yield way, seconds(search), later(log)
            if way == INLINE:
                yield AGAIN, seconds(searched(network, own, way, stack)), []


def searched(network: Network, folder: str, way: str, stack: ExitStack) -> Callable[[], None]:
    """A search by one of the ways; what it needs is there when it begins."""
    if way == KERAS_TUNER:
        return lambda: plain(network, folder)
    workers: Any = {INLINE: 1, TWO: 2}.get(way)
    if workers is None:
        from distributed import Client, LocalCluster

        cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1))
        workers = stack.enter_context(Client(cluster))
    return lambda: ours(network, folder, workers)


def plain(network: Network, folder: str) -> None:
    """keras-tuner alone: each candidate twice, as two seeds are."""
    tuner = keras_tuner.GridSearch(
        network, objective="val_loss", max_trials=None, executions_per_trial=len(SEEDS),
        directory=folder, project_name="plain",
    )  # fmt: skip
    tuner.search(X, Y, validation_data=(X[:64], Y[:64]), verbose=0)


def ours(network: Network, folder: str, workers: Any) -> None:
    """The same trainings by `tuning.search`."""
    tuning.search(
        network,
        (X, Y),
        (X[:64], Y[:64]),
        epochs=network.epochs,
        seeds=SEEDS,
        fresh_seeds=0,
        workers=workers,
        threads=1,
        directory=folder,
        progress=False,
    )


def seconds(search: Callable[[], None]) -> float:
    """The wall time of a search."""
    started = time.monotonic()
    search()
    return time.monotonic() - started


def later(log: Path) -> list[tuple[float, float]]:
    """Processor and wall seconds of the trials of each process but its first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines():
        process, processor, wall = line.split()
        found.setdefault(process, []).append((float(processor), float(wall)))
    return [times for own in found.values() for times in own[1:]]
