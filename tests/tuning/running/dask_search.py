"""A search on a Dask cluster, as a user's script; run by `test_dask_backend.py`."""

import json
import sys
import time

import keras
import numpy as np
from distributed import Client

import tuning

SLEEP = float(sys.argv[3])


class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def base():
    layers = [keras.layers.Conv2D(4, 3), Twice(), keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(SLEEP)


def said(record):
    sys.stdout.write(f"{record.label} {record.seed}\n")
    sys.stdout.flush()


def main():
    address, folder = sys.argv[1:3]
    workers = int(address) if address.isdigit() else Client(address)
    rng = np.random.default_rng(0)
    part = rng.normal(size=(32, 4, 4, 1)).astype("float32"), np.arange(32) % 2
    compile = {"loss": "sparse_categorical_crossentropy", "run_eagerly": True}
    result = tuning.search(
        base,
        part,
        part,
        tuning.SESpace((2, 4), ("one_plus_tanh",)),
        "cheapest:0.3",
        epochs=1,
        seeds=2,
        fresh_seeds=0,
        compile=compile,
        fit={"callbacks": [Slow()]},
        workers=workers,
        threads=1,
        directory=folder,
        on_trial=said,
    )
    scores = {f"{r.label} {r.seed}": r.score for r in result.records}
    with open(f"{folder}/answer.json", "w") as file:
        json.dump({"chosen": result.chosen, "scores": scores}, file)


if __name__ == "__main__":
    main()
