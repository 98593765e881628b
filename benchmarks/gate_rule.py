"""How often the rule of `keras_se.verify` is wrong: false alarms, misses, and their intervals.

Small SE networks are trained on scikit-learn's digits and on another data set (`FILE.npz` as for
`keras-se demo --data`), several seeds and gates, and converted to every format. Networks that are
not small are given as `--model FILE.keras`, trained on that data set in its own units.

A *false alarm* is a site of a sound file that is lost, or a sound file that does not pass. A *miss*
is an adaptive site that survives sabotage: its shipped gates spoiled in one of several ways, or the
file calibrated on images that are ten times too dark. Each sabotage is judged against the Keras
model and against its float file, and its work kept stands beside what the spoiled gates alone cost
in accuracy: both in the float network, so that nothing else is quantized.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
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
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.verification.keras_reference import KerasReference
from keras_se.verification.rule import NOTHING_TO_SURVIVE

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")
ONE_SITE = "frozen at one site"
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # training and held-out images


def digits() -> Split:
    """Scikit-learn's digits, 1,400 to train."""
    data = load_digits()
    images = data.images[..., None].astype("float32") / 16
    return images[:1400], data.target[:1400], images[1400:1600], data.target[1400:1600]


def other(path: str, scale: float = 255.0, held_out: int = 200) -> Split:
    """3,000 images of a file to train, some of its test images to judge on."""
    train, test = load_images(path)
    x, y = train if test is None else test
    return train[0][:3000] / scale, train[1][:3000], x[-held_out:] / scale, y[-held_out:]


def network(split: Split, gate: str, seed: int, epochs: int) -> keras.Model:
    """A trained network with three SE sites."""
    keras.utils.set_random_seed(seed)
    images, labels, *_ = split
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


@dataclass(frozen=True)
class Finding:
    """A verdict on a file or on spoiled gates.

    Attributes:
        source: The network.
        kind: `"sound"` or `"sabotaged"`.
        what: The format, or the sabotage.
        report: The verdict against the Keras model.
        agrees: Whether that against the float file has the same grades.
        cost: Change of the accuracy by the shipped gates alone; `None` without labels.
    """

    source: str
    kind: str
    what: str
    report: keras_se.GateReport
    agrees: bool
    cost: float | None


def trial(
    source: str, model: keras.Model, split: Split, formats: Iterable[str]
) -> Iterator[Finding]:
    """Sound and sabotaged files of one network."""
    x, y, calibration = split[2], split[3], split[0][:500]
    files = {}
    for name in formats:
        try:
            files[name] = keras_se.to_tflite(model, name, calibration, check_range=False)
        except InputError as error:  # TFLite lacks an operation in this format
            print(f"{source}, {name}: {error}", flush=True)
    float32 = keras_se.to_tflite(model, "float32")
    reference = KerasReference(model)
    names = reference.matched(TFLiteModel(files["int8"]), {"inputs": x[:32]})

    def finding(kind: str, what: str, tflite: bytes, gates: Any = None) -> Finding:
        report, other = (
            keras_se.verify(source, tflite, x, gates=gates) for source in (model, float32)
        )
        grades, others = (sorted(s.verdict for s in r.sites.values()) for r in (report, other))
        own = {} if gates is None else {name: gates[at] for name, at in names.items()}
        costs = cost(reference, x, y, own) if own else None
        return Finding(source, kind, what, report, grades == others, costs)

    for name, tflite in files.items():
        yield finding("sound", name, tflite)
    shipped = file_gates(files["int8"], x)
    for sabotage in SABOTAGES:
        spoiled = {name: np.asarray(sabotage(gates)) for name, gates in shipped.items()}
        yield finding("sabotaged", sabotage.__name__, files["int8"], spoiled)
    for site, gates in shipped.items():
        yield finding("sabotaged", ONE_SITE, files["int8"], {**shipped, site: frozen(gates)})
    dark = keras_se.to_tflite(model, "int8", 0.1 * calibration, check_range=False)
    yield finding("sabotaged", "calibration ten times too dark", dark)


def cost(reference: KerasReference, x: np.ndarray, y: np.ndarray, gates: Any) -> float:
    """The change of the accuracy of the float network by other gates."""
    own, spoiled = (reference.outputs({"inputs": x}, given)[0] for given in ({}, gates))
    return float((spoiled.argmax(axis=1) == y).mean() - (own.argmax(axis=1) == y).mean())


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
    parser.add_argument(
        "--model", action="append", default=[], help="FILE.keras, trained on --data"
    )
    arguments = parser.parse_args()
    found: list[Finding] = []
    for source, split, build in networks(arguments):
        try:
            found += trial(source, build(), split, FORMATS)
        except InputError as error:
            print(f"{source}: left out: {error}", flush=True)
            continue
        print(f"{source}: done", flush=True)
    show(found)


def networks(arguments: Any) -> Iterator[tuple[str, Split, Callable[[], keras.Model]]]:
    """The networks to judge, each with its data."""
    splits = {"digits": digits()}
    if arguments.data:
        splits["other"] = other(arguments.data)
    for data, split in splits.items():
        for gate in GATES:
            for seed in range(arguments.seeds):
                build = partial(network, split, gate, seed, arguments.epochs)
                yield f"{data} {gate} {seed}", split, build
    for path in arguments.model:
        split = other(arguments.data, scale=1.0, held_out=500)
        yield Path(path).stem, split, partial(keras.saving.load_model, path, compile=False)


def show(found: list[Finding]) -> None:
    """Prints the tables."""
    console = Console(width=150)
    console.print(sound_table(found), sabotage_table(found), cost_table(found))
    sound = [f for f in found if f.kind == "sound"]
    sites = [site for f in sound for site in f.report.sites.values()]
    lost, files = [s.verdict == "lost" for s in sites], [failed(f) for f in sound]
    print("sites of sound files that are lost:", interval(sum(lost), len(lost)))
    weakened = [s.verdict == "weakened" for s in sites]
    print("sites of sound files that are weakened:", interval(sum(weakened), len(weakened)))
    print("sound files that do not pass:", interval(sum(files), len(files)))
    missed = [s.verdict == "survives" for f in found if f.kind != "sound" for s in spoiled(f)]
    print("spoiled sites that survive:", interval(sum(missed), len(missed)))
    agree = [f.agrees for f in found]
    print("same grades against the float file:", interval(sum(agree), len(agree)))


def failed(finding: Finding) -> bool:
    """Whether a file with an adaptive site does not pass."""
    return not finding.report.passed and finding.report.verdict != NOTHING_TO_SURVIVE


def spoiled(finding: Finding) -> list[Any]:
    """The adaptive sites that a sabotage spoiled; of one site alone, that one is not known here."""
    if finding.what == ONE_SITE:
        return []
    return [s for s in finding.report.sites.values() if (s.spread or 0.0) >= 1.5]


def grouped(found: list[Finding], kind: str) -> dict[str, list[Finding]]:
    """The findings of a kind, by what they are of."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in found:
        if finding.kind == kind:
            groups[finding.what].append(finding)
    return groups


def sound_table(found: list[Finding]) -> Table:
    """False alarms by format."""
    columns = ("format", "sites lost", "weakened", "files that fail", "lowest R²", "lowest W")
    table = Table(*columns, title="Sound files")
    for name, findings in grouped(found, "sound").items():
        sites = [site for f in findings for site in f.report.sites.values()]
        grades = Counter(site.verdict for site in sites)
        r2 = [s.r2 for s in sites if s.r2 is not None and (s.spread or 0.0) >= 1.5]
        work = [f.report.work_kept for f in findings if f.report.work_kept is not None]
        table.add_row(
            name,
            interval(grades["lost"], len(sites)),
            interval(grades["weakened"], len(sites)),
            interval(sum(map(failed, findings)), len(findings)),
            f"{min(r2, default=math.nan):.3f}",
            f"{min(work, default=math.nan):.3f}",
        )
    return table


def sabotage_table(found: list[Finding]) -> Table:
    """Misses by sabotage."""
    columns = ("sabotage", "sites that survive", "files that pass", "highest R²", "highest W")
    table = Table(*columns, title="Sabotage, adaptive sites")
    for name, findings in grouped(found, "sabotaged").items():
        sites = [site for f in findings for site in spoiled(f)]
        r2 = [site.r2 for site in sites if site.r2 is not None]
        work = [f.report.work_kept for f in findings if f.report.work_kept is not None]
        passed = [f.report.passed for f in findings]
        table.add_row(
            name,
            interval(sum(site.verdict == "survives" for site in sites), len(sites)),
            interval(sum(passed), len(passed)),
            f"{max(r2, default=math.nan):.3f}",
            f"{max(work, default=math.nan):.3f}",
        )
    return table


def cost_table(found: list[Finding]) -> Table:
    """The work kept against what the gates alone cost in accuracy."""
    table = Table("work kept", "cases", "accuracy: mean", "lowest", "highest", "pass")
    edges = (-math.inf, 0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99, math.inf)
    cases = [f for f in found if f.cost is not None and f.report.work_kept is not None]
    for low, high in pairwise(edges):
        part = [f for f in cases if low <= f.report.work_kept < high]
        costs = [f.cost for f in part]
        if costs:
            figures = (float(np.mean(costs)), min(costs), max(costs))
            passed = sum(f.report.passed for f in part)
            row = (f"{figure:+.4f}" for figure in figures)
            table.add_row(f"{low:g} to {high:g}", str(len(part)), *row, str(passed))
    return table


if __name__ == "__main__":
    main()
