"""What workers gain on trials of some seconds, beside keras-tuner's own loop.

Six candidates on two seeds, one thread each, in one run: keras-tuner's own exhaustive search in
this process, `tuning.search` in this process, in two slots, and in slots beside two workers of a
Dask cluster on this machine. Printed: seconds and ratios of the whole searches, and the processor
time of a later trial in a slot over that of the same trial in this process.

    python benchmarks/workers.py --seconds 10
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

import tuning

UNITS, SEEDS = (8, 9, 10, 11, 12, 13), (0, 1)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(512, 16, 16, 3)).astype("float32"), RNG.integers(0, 3, 512)


class Network(keras_tuner.HyperModel):
    """A network whose training takes about as long as was asked for; it notes its own cost."""

    def __init__(self, epochs: int, log: str) -> None:
        super().__init__()
        self.epochs, self.log = epochs, log

    def build(self, hp: Any) -> keras.Model:
        """Three convolutions and a layer of as many units as are searched."""
        units = hp.Choice("units", list(UNITS))
        layers = [keras.layers.Conv2D(16, 3, activation="relu") for _ in range(3)]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(units, "relu")]
        model = keras.Sequential([keras.Input((16, 16, 3)), *layers, *head, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, jit_compile=False)
        return model

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Trains, and appends the processor time to the log."""
        started = time.process_time()
        kwargs.update(epochs=self.epochs, verbose=0)
        history = model.fit(*args, **kwargs)
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {time.process_time() - started}\n")
        return history


def epochs_of(seconds: float, log: str) -> int:
    """The number of epochs that take so long in this process."""
    network = Network(1, log)
    model = network.build(keras_tuner.HyperParameters())
    network.fit(None, model, X, Y)  # traces
    started = time.monotonic()
    network.fit(None, model, X, Y)
    return max(1, round(seconds / (time.monotonic() - started)))


def plain(network: Network, folder: str) -> None:
    """keras-tuner alone: each candidate twice, as two seeds are."""
    tuner = keras_tuner.GridSearch(
        network, objective="val_loss", max_trials=None, executions_per_trial=len(SEEDS),
        directory=folder, project_name="plain",
    )  # fmt: skip
    tuner.search(X, Y, validation_data=(X[:64], Y[:64]), verbose=0)


def searched(network: Network, folder: str, workers: Any) -> None:
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
    )


def later(log: Path) -> float:
    """Mean processor time of the trials of each process but its first, in seconds."""
    found: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        process, seconds = line.split()
        found.setdefault(process, []).append(float(seconds))
    return float(np.mean([seconds for own in found.values() for seconds in own[1:]]))


def main() -> None:
    """Prints the figures."""
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one trial")
    seconds = parser.parse_args().seconds
    # As in slots of one thread; a search says so to TensorFlow before its first operation.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        epochs = epochs_of(seconds, str(log))
        times, costs = {}, {}
        for name in ("keras-tuner", "inline", "two workers", "Dask"):
            log = Path(folder, f"log {name}")
            network = Network(epochs, str(log))
            cluster = None
            if name == "Dask":
                cluster = Client(LocalCluster(n_workers=2, threads_per_worker=1))
            started = time.monotonic()
            if name == "keras-tuner":
                plain(network, folder)
            else:
                workers = {"inline": 1, "two workers": 2, "Dask": cluster}[name]
                searched(network, str(Path(folder, name)), workers)
            times[name] = time.monotonic() - started
            costs[name] = later(log)
            print(f"{name}: {times[name]:.0f} s, a later trial {costs[name]:.2f} s of processor")
    print(f"keras-tuner / two workers: {times['keras-tuner'] / times['two workers']:.2f}")
    print(f"inline / two workers: {times['inline'] / times['two workers']:.2f}")
    print(f"two workers / Dask: {times['two workers'] / times['Dask']:.2f}")
    print(f"later trial in a slot / inline: {costs['two workers'] / costs['inline']:.2f}")


if __name__ == "__main__":
    main()
