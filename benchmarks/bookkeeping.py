"""What the parent does for each trial of a large search, whose trials cost nothing here.

Prints milliseconds per trial (mean of the trials up to each number): the proposal, the log of
begun trials, record, curve, weights, keras-tuner's folder, the choice of weights to keep; with
every write synchronized. `--workers` trials run at a time and end in random order.
"""

import argparse
import pickle
import random
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager

import keras
import keras_tuner
import numpy as np

import tuning
from tuning import searching
from tuning.trials.perform import Outcome, Run
from tuning.trials.records import TrialRecord


class Simulated:
    """Workers that end their trials in random order, as soon as another one could start."""

    def __init__(self, workers: int) -> None:
        self.capacity, self._pending, self._lock = workers, [], threading.Lock()
        threading.Thread(target=self._drain, daemon=True).start()

    def submit(self, run: Run) -> Future:
        """Starts a trial, and ends another one if all workers are busy."""
        future: Future = Future()
        with self._lock:
            self._pending.append((future, run))
            self._touched = time.monotonic()
            if len(self._pending) >= self.capacity:
                self._end()
        return future

    def _end(self) -> None:
        number = random.randrange(len(self._pending))
        self._pending[number], self._pending[-1] = self._pending[-1], self._pending[number]
        future, run = self._pending.pop()
        c = run.candidate
        score = float(np.random.default_rng([run.seed, int(c.id, 16)]).normal())
        record = TrialRecord(c.id, c.label, c.values, run.seed, "completed", score, parameters=9)
        future.set_result(pickle.dumps(Outcome(record, b"{}\n", b"weights")))

    def _drain(self) -> None:
        while True:
            time.sleep(0.001)
            with self._lock:
                if self._pending and time.monotonic() - self._touched > 0.02:
                    self._end()

    def result(self, future: Future) -> bytes:
        """What a worker sends."""
        return future.result()


def network(hp: keras_tuner.HyperParameters) -> keras.Model:
    """One layer; a space of ten million."""
    for name in "abcdefg":
        hp.Choice(name, list(range(10)))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1000)
    arguments = parser.parse_args()

    @contextmanager
    def simulated(*_: object):
        yield Simulated(arguments.workers)

    searching.open_backend = simulated
    part, times = (np.zeros((8, 4)), np.zeros((8, 2))), [(time.perf_counter(), time.process_time())]
    candidates = arguments.trials // arguments.seeds
    with tempfile.TemporaryDirectory() as folder:
        tuning.search(
            network,
            part,
            part,
            objective=tuning.Cheapest(1e9, max_seeds=arguments.seeds),
            epochs=1,
            seeds=arguments.seeds,
            fresh_seeds=0,
            workers=2,
            oracle=keras_tuner.oracles.RandomSearchOracle("val_loss", candidates, seed=1),
            directory=f"{folder}/run",
            on_trial=lambda record: times.append((time.perf_counter(), time.process_time())),
        )
        steps = np.diff(times, axis=0) * 1e3
        begin = 0
        for end in (250, 1000, 2000, 5000, 10_000, 20_000):
            if end <= len(steps) + 250:
                wall, processor = steps[begin:end].mean(axis=0)
                print(f"to {end:6,}: {wall:6.2f} ms, of which the processor {processor:6.2f}")
            begin = end
        print(f"the choice at the end: {time.perf_counter() - times[-1][0]:.1f} s")


if __name__ == "__main__":
    main()
