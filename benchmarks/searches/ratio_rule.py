"""How the loss depends on r on scikit-learn's digits, and which rule finds the best r from it.

`python benchmarks/searches/ratio_rule.py runs/ratio --channels 16 32 --seeds 16` trains a network
of two convolutions with SE at six ratios, 96 trainings, and prints

- the mean validation loss at each ratio, the standard deviation over seeds, and that of the
  difference of neighbouring ratios on shared seeds;
- the exponent p of L0 + κ·r^p / p that fits these means best;
- for prices λ around those at which the best ratio changes: how often the ratio with the lowest
  J = L + λ·ΣC²/r over all seeds is found from three seeds by the lowest mean J, with seeds that all
  ratios share and with seeds of their own, and by the cube root r* = (λS/κ)^(1/3) with κ fitted to
  the same three, rounded to the nearest ratio on a log scale.

The same call goes on where it was ended, and prints without training once all records are there.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import tuning
from keras_se import theory

RATIOS = (1, 2, 4, 8, 16, 32)
COMPILE = {
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "jit_compile": False,
}
POWERS = np.arange(0.1, 8.05, 0.1)
DRAWS, PRICES = 200, 41


def data() -> tuple:
    """Training and validation images."""
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target
    return (x[:900], y[:900]), (x[900:], y[900:])


def network(widths: Sequence[int]) -> keras.Model:
    """Convolutions, after each of which a search puts a block."""
    x = inputs = keras.Input((8, 8, 1))
    for strides, channels in enumerate(widths, 1):
        x = keras.layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def losses(folder: Path, widths: Sequence[int], seeds: int, epochs: int) -> np.ndarray:
    """Validation losses, a row for each ratio and a column for each seed."""
    result = tuning.search(
        partial(network, widths),
        data,
        None,
        tuning.SESpace(RATIOS, ("sigmoid",), baseline=False),
        tuning.StructuralRisk(0.0),
        epochs=epochs,
        directory=folder,
        seeds=seeds,
        fresh_seeds=0,
        keep_weights=0,
        compile=COMPILE,
    )
    scores = {(r.values["se_ratio"], r.seed): r.score for r in result.records}
    return np.array([[scores[ratio, seed] for seed in range(seeds)] for ratio in RATIOS])


def fitted_power(means: np.ndarray) -> float:
    """The p with the least squared distance of L0 + κ·r^p / p from the means."""
    ratios = np.array(RATIOS, "float64")

    def distance(power: float) -> float:
        l0, kappa = theory.fit_loss(ratios, means, power)
        return float(((l0 + kappa * ratios**power / power - means) ** 2).sum())

    return min(POWERS.tolist(), key=distance)


def prices(means: np.ndarray, complexity: np.ndarray) -> np.ndarray:
    """Prices λ from half of the first to twice the last at which the best ratio changes."""
    grid = np.geomspace(1e-9, 1e3, 4001)
    best = np.argmin(means[:, None] + grid * complexity[:, None], axis=0)
    changes = grid[1:][np.diff(best) != 0]
    return np.geomspace(changes[0] / 2, changes[-1] * 2, PRICES)


def cube_root(means: np.ndarray, squares: float, price: float) -> int:
    """The ratio nearest to r* of the fitted parabola, by its position."""
    _, kappa = theory.fit_loss(np.array(RATIOS, "float64"), means)
    if kappa <= 0:
        return len(RATIOS) - 1
    wanted = theory.optimal_ratio(math.sqrt(squares), price, kappa)
    return int(np.abs(np.log(np.array(RATIOS) / wanted)).argmin())


def shares(scores: np.ndarray, squares: float) -> dict[str, float]:
    """How often each rule finds the ratio that is best over all seeds, from three of them."""
    truth, rng = scores.mean(axis=1), np.random.default_rng(0)
    complexity = squares / np.array(RATIOS, "float64")
    hits: dict[str, list[bool]] = {}
    for price in prices(truth, complexity):
        best = int((truth + price * complexity).argmin())
        for _ in range(DRAWS):
            shared = scores[:, rng.permutation(scores.shape[1])[:3]].mean(axis=1)
            own = np.array([row[rng.permutation(len(row))[:3]].mean() for row in scores])
            found = {
                "lowest J, shared seeds": int((shared + price * complexity).argmin()),
                "lowest J, seeds of their own": int((own + price * complexity).argmin()),
                "cube root": cube_root(shared, squares, price),
            }
            for name, position in found.items():
                hits.setdefault(name, []).append(position == best)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    widths = arguments.channels
    scores = losses(arguments.folder, widths, arguments.seeds, arguments.epochs)
    means, deviations = scores.mean(axis=1), scores.std(axis=1, ddof=1)
    for ratio, mean, deviation in zip(RATIOS, means, deviations, strict=True):
        print(f"r={ratio}: {mean:.4f}, over seeds ±{deviation:.4f}")
    differences = np.diff(scores, axis=0)
    print(f"sd over seeds {np.sqrt((deviations**2).mean()):.4f}")
    print(f"sd of a difference on one seed {np.sqrt(differences.var(axis=1, ddof=1).mean()):.4f}")
    print(f"mean gap between neighbours {np.abs(differences.mean(axis=1)).mean():.4f}")
    print(f"p = {fitted_power(means):.1f}")
    for name, share in shares(scores, sum(channels**2 for channels in widths)).items():
        print(f"{name}: {share:.0%}")


if __name__ == "__main__":
    main()
