"""The paper's figure: mean gates by class, from the first site to the last, with a number each.

    python examples/10_gates_by_class.py [--data FILE.npz]

Fashion-MNIST (Debian's package `dataset-fashion-mnist`, MIT licence), or images of your own. Hu et
al., arXiv 1709.01507v4, section 7.2, on SE-ResNet-50 and ImageNet: early gates are alike for all
classes, later ones differ by class, the last saturate. The *share of classes* is the part of the
variance of gates over images that lies between the means of classes: 0 if classes do not differ,
1 if nothing else does; (classes - 1) / (images - 1) by chance.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from paired import difference
from real_data import images

import keras_se
from keras_se.sites.curves import draw_gate_curves
from keras_se.sites.statistics import GateStatistics, gate_statistics

STAGES = ((16, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1))  # filters and strides of a unit


def network(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Six residual units with a sigmoid SE block each, as in the paper."""
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters, strides in STAGES:
        shortcut = x
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras_se.SEBlock(ratio=4)(x)
        if shortcut.shape != x.shape:
            shortcut = keras.layers.Conv2D(filters, 1, strides=strides)(shortcut)
        x = keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def share_of_classes(gates: np.ndarray, labels: np.ndarray) -> float:
    """Variance between the class means over all variance, both summed over channels."""
    means = np.stack([gates[labels == label].mean(axis=0) for label in np.unique(labels)])
    weights = np.bincount(labels)[np.unique(labels)] / len(labels)
    between = (weights[:, None] * (means - gates.mean(axis=0)) ** 2).sum()
    return float(between / gates.var(axis=0).sum())


def trend(shares: np.ndarray) -> str:
    """Whether the shares of the last two sites are above those of the first two, over seeds."""
    late, early = shares[:, -2:].mean(axis=1), shares[:, :2].mean(axis=1)
    mean, low, high = difference(late, early)
    shown = "is seen" if low > 0 else "is not seen"
    return (
        f"late sites less early ones: {mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
        f"{len(shares)} seeds): that later gates follow the class more {shown} here"
    )


def saturation(statistics: list[list[GateStatistics]]) -> str:
    """Whether most gates of one of the last two sites are near 1, in the mean over seeds."""
    share = max(np.mean([sites[last].saturated for sites in statistics]) for last in (-2, -1))
    shown = "is seen" if share > 0.5 else "is not seen"
    return (
        f"gates within 1 % of 1 at the last two sites: {share:.3f} at most: "
        f"that the last gates saturate {shown} here"
    )


def trained(x: np.ndarray, y: np.ndarray, seed: int, epochs: int) -> keras.Model:
    """A network, trained from a seed."""
    keras.utils.set_random_seed(seed)
    model = network(x.shape[1:], int(y.max()) + 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    return model


def print_table(statistics: list[list[GateStatistics]], shares: np.ndarray) -> None:
    """One row for each site, means over seeds."""
    print(f"{'site':6}{'share of classes':>18}{'spread':>9}{'saturated':>11}")
    for sites, share in zip(zip(*statistics, strict=True), shares.mean(axis=0), strict=True):
        spread = np.mean([site.spread for site in sites])
        saturated = np.mean([site.saturated for site in sites])
        print(f"{sites[0].name:6}{share:18.3f}{spread:9.3f}{saturated:11.3f}")


def main(argv: list[str] | None = None) -> None:
    """Trains one network for each seed, and draws the gates of the first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="FILE.npz, or a folder with the files of Fashion-MNIST")
    parser.add_argument("--images", type=int, default=5000, help="to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, default=Path("gates_by_class.svg"))
    arguments = parser.parse_args(argv)

    (x, y), (x_test, y_test) = images(arguments.data)
    x_test, y_test = x_test[:2000], y_test[:2000]
    statistics, shares = [], []
    for seed in range(arguments.seeds):
        model = trained(x[: arguments.images], y[: arguments.images], seed, arguments.epochs)
        found = model.evaluate(x_test, y_test, batch_size=256, verbose=0, return_dict=True)
        print(f"seed {seed}: accuracy {found['accuracy']:.4f}")
        sites, gates = keras_se.find_sites(model), keras_se.read_gates(model, x_test)
        statistics.append([gate_statistics(site, gates[site.name], y_test) for site in sites])
        shares.append([share_of_classes(gates[site.name], y_test) for site in sites])
    arguments.figure.write_bytes(draw_gate_curves(statistics[0]))
    print_table(statistics, np.array(shares))
    print(trend(np.array(shares)))
    print(saturation(statistics))
    print(f"the curves of seed 0: {arguments.figure}")


if __name__ == "__main__":
    main()
