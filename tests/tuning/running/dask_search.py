"""A search on a Dask cluster, as a user's script; run by `test_dask_backend.py`."""

import json
import sys
import time

import keras
import keras_tuner
import numpy as np
from distributed import Client

import tuning

SLEEP = float(sys.argv[3])


class Trial(keras_tuner.HyperModel):
    """A trial that waits instead of training: all else is real."""

    def build(self, hp):
        number = hp.Choice("number", [1, 2, 3])
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(number)])

    def fit(self, hp, model, *arguments, **further):
        time.sleep(SLEEP)
        return float(hp.get("number") + model.get_weights()[0].sum())


def said(record):
    sys.stdout.write(f"{record.label} {record.seed}\n")
    sys.stdout.flush()


def main():
    address, folder = sys.argv[1:3]
    workers = int(address) if address.isdigit() else Client(address)
    part = np.zeros((8, 4), "float32"), np.zeros(8)
    result = tuning.search(
        Trial(),
        part,
        part,
        objective="cheapest:0.3",
        epochs=1,
        seeds=2,
        fresh_seeds=0,
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
