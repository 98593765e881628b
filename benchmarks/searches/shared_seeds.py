"""What shared seeds buy: the noise of a difference on one seed, over that on two seeds.

    python benchmarks/searches/shared_seeds.py --seeds 12

Two candidates, on scikit-learn's digits; 1 would mean that sharing seeds buys nothing.
"""

import argparse
import math
import tempfile

import keras
import numpy as np
from sklearn.datasets import load_digits

import tuning

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
    """Prints the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = pairing(f"{folder}/pairs", given.epochs, given.seeds)
    print(f"paired / unpaired: {shared:.2f} ({given.seeds} seeds)")


if __name__ == "__main__":
    main()
