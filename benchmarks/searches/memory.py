"""How much memory a search of many trials takes, of networks of one layer.

    python benchmarks/searches/memory.py --trials 200

Printed, in MB: what this process grows by from the 20th trial to the last, with two workers; the
largest of their processes; what this process grows by in 25 further trials of its own.
"""

import argparse
import contextlib
import os
import resource
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import tuning

COMPILE = {
    "optimizer": "adam",
    "loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "jit_compile": False,
}


def data() -> tuple:
    """A few numbers."""
    part = (np.zeros((8, 4, 4, 1), "float32"), np.zeros(8, "int64"))
    return part, part


def network() -> keras.Model:
    """One convolution."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


def growth(folder: str, trials: int, after: int, workers: int) -> tuple[float, float]:
    """MB by which this process grows from trial `after` to the last, and the largest slot."""
    sizes: list[tuple[int, int]] = []
    tuning.search(
        network,
        data,
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


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as root:
        flat, largest = growth(f"{root}/many", trials, 20, 2)
        print(f"memory of {trials} trials, parent: {flat:+.1f} MB")
        print(f"memory of {trials} trials, largest slot: {largest:.0f} MB")
        print(f"memory, inline, 30 trials: {growth(f'{root}/few', 30, 5, 1)[0]:+.1f} MB")


if __name__ == "__main__":
    main()
