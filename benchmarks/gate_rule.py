"""How often `keras_se.verification.rule` is wrong: false alarms, misses, and their intervals.

Small SE networks are trained on scikit-learn's digits and on another data set (`FILE.npz` as for
`keras-se demo --data`), several seeds and gates, and converted to every format. A *false alarm* is
a site of a sound file that fails. A *miss* is an adaptive site that survives sabotage: its shipped
gates spoiled in one of several ways, or the file calibrated on images that are ten times too dark.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from sklearn.datasets import load_digits

import keras_se
from keras_se import SEBlock
from keras_se.data import load_images
from keras_se.errors import InputError
from keras_se.litert.formats import FORMATS
from keras_se.litert.gates import file_gates

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")
Split = tuple[np.ndarray, np.ndarray, np.ndarray]  # training images and labels, held-out images


def digits() -> Split:
    """Scikit-learn's digits, 1,400 to train."""
    data = load_digits()
    images = data.images[..., None].astype("float32") / 16
    return images[:1400], data.target[:1400], images[1400:1600]


def other(path: str) -> Split:
    """3,000 images of a file to train, 200 of its test images to judge on."""
    train, test = load_images(path)
    held_out = (train if test is None else test)[0]
    return train[0][:3000] / 255, train[1][:3000], held_out[-200:] / 255


def network(split: Split, gate: str, seed: int, epochs: int) -> keras.Model:
    """A trained network with three SE sites."""
    keras.utils.set_random_seed(seed)
    images, labels, _ = split
    x = inputs = keras.Input(images.shape[1:])
    for filters, strides in ((16, 1 if images.shape[1] < 16 else 2), (32, 2), (32, 2)):
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        x = SEBlock(4, gate=gate, bias_initializer=keras.initializers.Constant(0.2))(x)
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    return model


def frozen(gates: np.ndarray) -> np.ndarray:
    """Every channel at its mean."""
    return np.broadcast_to(gates.mean(axis=0), gates.shape)


def half_frozen(gates: np.ndarray) -> np.ndarray:
    """Every second sample at the mean."""
    spoiled = gates.copy()
    spoiled[::2] = gates.mean(axis=0)
    return spoiled


def widest_channel_frozen(gates: np.ndarray) -> np.ndarray:
    """The channel that adapts most at its mean."""
    spoiled, channel = gates.copy(), gates.std(axis=0).argmax()
    spoiled[:, channel] = gates[:, channel].mean()
    return spoiled


def permuted(gates: np.ndarray) -> np.ndarray:
    """Each channel has the gate of the next."""
    return np.roll(gates, 1, axis=1)


def samples_permuted(gates: np.ndarray) -> np.ndarray:
    """Each sample has the gates of the next."""
    return np.roll(gates, 1, axis=0)


def clipped(gates: np.ndarray) -> np.ndarray:
    """Nothing above the median of each channel."""
    return np.minimum(gates, np.median(gates, axis=0))


def steeper(gates: np.ndarray) -> np.ndarray:
    """Deviations 1.2 times too large, as with a slope of 1/5 in place of 1/6."""
    mean = gates.mean(axis=0)
    return mean + 1.2 * (gates - mean)


def widest_channel_dead(gates: np.ndarray) -> np.ndarray:
    """The channel that adapts most at zero."""
    spoiled = gates.copy()
    spoiled[:, gates.std(axis=0).argmax()] = 0.0
    return spoiled


SABOTAGES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    *(frozen, half_frozen, widest_channel_frozen, permuted, samples_permuted),
    *(clipped, steeper, widest_channel_dead),
)


def judged(model: keras.Model, tflite: bytes, x: np.ndarray, gates: Any = None) -> Any:
    """The verdicts on all sites."""
    return keras_se.verify(model, tflite, x, gates=gates).sites.values()


def trial(split: Split, gate: str, seed: int, epochs: int) -> Iterator[tuple[str, str, Any]]:
    """Sound and sabotaged sites of one network: what it is, `"sound"` or the sabotage, verdict."""
    model, x = network(split, gate, seed, epochs), split[2]
    calibration = split[0][:500]
    files = {name: keras_se.to_tflite(model, name, calibration) for name in FORMATS}
    for name, tflite in files.items():
        for site in judged(model, tflite, x):
            yield "sound", name, site
    shipped = file_gates(files["int8"], x)
    for sabotage in SABOTAGES:
        spoiled = {name: np.asarray(sabotage(gates)) for name, gates in shipped.items()}
        for site in judged(model, files["int8"], x, spoiled):
            yield "sabotaged", sabotage.__name__, site
    dark = keras_se.to_tflite(model, "int8", 0.1 * calibration, check_range=False)
    for site in judged(model, dark, x):
        yield "sabotaged", "calibration ten times too dark", site


def interval(hits: int, trials: int) -> str:
    """A share with its 95 % interval (Clopper and Pearson)."""
    if not trials:
        return "-"
    bounds = binomtest(hits, trials).proportion_ci()
    return f"{hits} of {trials}: {hits / trials:.3f} ({bounds.low:.3f}-{bounds.high:.3f})"


def main() -> None:
    """Trains, judges and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the second data set: FILE.npz")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    splits = {"digits": digits()}
    if arguments.data:
        splits["other"] = other(arguments.data)
    found: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for source, split in splits.items():
        for gate in GATES:
            for seed in range(arguments.seeds):
                try:
                    for kind, what, site in trial(split, gate, seed, arguments.epochs):
                        found[source, kind, what].append(site)
                except InputError as error:
                    print(f"{source} {gate} seed {seed}: left out: {error}", flush=True)
                    continue
                print(f"{source} {gate} seed {seed}: done", flush=True)
    show(found)


def show(found: dict[tuple[str, str, str], list[Any]]) -> None:
    """Prints a table of false alarms and one of misses."""
    sound = Table("data", "format", "false alarms", "adaptive", "lowest R²", title="Sound files")
    spoiled = Table("data", "sabotage", "misses among adaptive", "highest R²", title="Sabotage")
    alarms, misses = [], []
    for (source, kind, what), sites in found.items():
        adaptive = [site for site in sites if (site.spread or 0.0) >= 1.5]
        figures = [site.r2 for site in adaptive if site.r2 is not None]
        if kind == "sound":
            wrong = [site.failed for site in sites]
            alarms += wrong
            share = interval(sum(wrong), len(wrong))
            sound.add_row(source, what, share, str(len(adaptive)), f"{min(figures, default=0):.4f}")
            for site in sites:
                if site.failed:
                    print("false alarm:", source, what, site.gate, site.name, site.reason)
        else:
            missed = [site.verdict == "survives" for site in adaptive]
            misses += missed
            share = interval(sum(missed), len(missed))
            spoiled.add_row(source, what, share, f"{max(figures, default=0):.4f}")
            for site in adaptive:
                if site.verdict == "survives":
                    print("miss:", source, what, site.gate, site.name, f"R2 {site.r2:.4f}")
    console = Console(width=120)
    console.print(sound, spoiled)
    print("false alarms in all:", interval(sum(alarms), len(alarms)))
    print("misses in all:", interval(sum(misses), len(misses)))


if __name__ == "__main__":
    main()
