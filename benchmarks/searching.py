"""What a search costs beside its training, and what shared seeds buy.

Printed, each from one run on scikit-learn's digits:

- inline / bare: seconds of a search in this process over those of the same trainings in a plain
  loop of build, compile, fit;
- workers 2 / 1: seconds of a search with two processes at a time, its start included, over those
  of the same search in this process;
- again / first: seconds of the same call once its records are there;
- memory: growth of the parent from the 20th trial to the last of `--trials` (two processes at a
  time, networks of one layer), the largest of their processes, in MB, and the most that an inline
  search of 30 trials grows;
- paired / unpaired: standard deviation of the difference of two candidates on one seed, over that
  on two seeds; 1 would mean that sharing seeds buys nothing.
"""

import argparse
import contextlib
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import tuning
from keras_se import insert
from tuning.seeding import trial_seed

SPACE = tuning.SESpace((2, 4, 8), ("sigmoid", "one_plus_tanh"))
COMPILE = {
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["accuracy"],
    "jit_compile": False,
}


def data() -> tuple:
    """Training and validation images."""
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


def network() -> keras.Model:
    """Two convolutions."""
    convolutions = [
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
    ]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *convolutions, *head])


def small_data() -> tuple:
    """A few numbers."""
    part = (np.zeros((8, 4, 4, 1), "float32"), np.zeros(8, "int64"))
    return part, part


def small_network() -> keras.Model:
    """One convolution."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


def searched(folder: str, epochs: int, workers: int) -> tuple[float, tuning.SearchResult]:
    """Seconds of a search, and its result."""
    started = time.perf_counter()
    result = tuning.search(
        network,
        data,
        None,
        SPACE,
        "cheapest:0.01:val_accuracy",
        epochs=epochs,
        seeds=1,
        fresh_seeds=0,
        compile=COMPILE,
        workers=workers,
        threads=1,
        directory=folder,
    )
    return time.perf_counter() - started, result


def bare(epochs: int) -> float:
    """Seconds of the same trainings."""
    (train, validation), started = data(), time.perf_counter()
    for gate in SPACE.gates:
        for ratio in SPACE.ratios:
            with trial_seed(0):
                model = insert(network(), ratio, gate=gate)
                fit(model, train, validation, epochs)
    with trial_seed(0):
        fit(network(), train, validation, epochs)
    return time.perf_counter() - started


def fit(model: keras.Model, train: tuple, validation: tuple, epochs: int) -> None:
    """As a trial of the search does."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(*train, validation_data=validation, epochs=epochs, verbose=0)


def growth(folder: str, trials: int, after: int, workers: int) -> tuple[float, float]:
    """MB by which this process grows from trial `after` to the last, and the largest slot."""
    sizes: list[tuple[int, int]] = []
    tuning.search(
        small_network,
        small_data,
        None,
        tuning.SESpace((2,), ("sigmoid",), baseline=False),
        epochs=1,
        seeds=trials,
        fresh_seeds=0,
        compile=COMPILE,
        workers=workers,
        threads=1,
        directory=folder,
        on_trial=lambda record: sizes.append((memory(), largest_slot())),
    )
    return (sizes[-1][0] - sizes[after][0]) / 1024, max(slot for _, slot in sizes) / 1024


def largest_slot() -> int:
    """Resident kB of the largest process that is a slot of this one; 0 without any."""
    found = [0]
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "popen_loky" in (path / "cmdline").read_text():
                pages = int((path / "statm").read_text().split()[1])
                found.append(pages * resource.getpagesize() // 1024)
    return max(found)


def memory() -> int:
    """Resident kB of this process."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pairing(folder: str, epochs: int, seeds: int) -> float:
    """Standard deviation of differences within seeds over that between seeds."""
    result = tuning.search(
        network,
        *data(),
        tuning.SESpace((2, 8), ("one_plus_tanh",), baseline=False),
        "cheapest:0.01:val_loss",
        epochs=epochs,
        seeds=seeds,
        fresh_seeds=0,
        compile=COMPILE,
        directory=folder,
    )
    scores = np.array([r.score for r in result.records if r.seed < seeds]).reshape(2, seeds)
    paired = (scores[0] - scores[1]).std(ddof=1)
    return float(paired / math.sqrt(scores[0].var(ddof=1) + scores[1].var(ddof=1)))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        ratios: dict[str, list[float]] = {}
        for repeat in range(arguments.repeats):
            plain = bare(arguments.epochs)
            inline, _ = searched(f"{root}/inline{repeat}", arguments.epochs, 1)
            again, _ = searched(f"{root}/inline{repeat}", arguments.epochs, 1)
            two, _ = searched(f"{root}/two{repeat}", arguments.epochs, 2)
            for name, ratio in (
                ("inline / bare", inline / plain),
                ("again / first", again / inline),
                ("workers 2 / 1", two / inline),
            ):
                ratios.setdefault(name, []).append(ratio)
        for name, values in ratios.items():
            print(f"{name}: {np.median(values):.3f} ({min(values):.3f}-{max(values):.3f})")
        flat, largest = growth(f"{root}/many", arguments.trials, 20, 2)
        print(f"memory of {arguments.trials} trials, parent: {flat:+.1f} MB")
        print(f"memory of {arguments.trials} trials, largest slot: {largest:.0f} MB")
        print(f"memory, inline, 30 trials: {growth(f'{root}/few', 30, 5, 1)[0]:+.1f} MB")
        shared = pairing(f"{root}/pairs", arguments.epochs, arguments.seeds)
        print(f"paired / unpaired: {shared:.2f} ({arguments.seeds} seeds)")


if __name__ == "__main__":
    main()
