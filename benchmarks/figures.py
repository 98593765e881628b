"""Draws the figures of docs/gates.md and docs/ratio.md into docs/images.

`python benchmarks/figures.py` draws them, `--check` says whether those that are there would change.
Curves are computed, stairs are read from int8 files that it converts, and ratios are those in the
tables of docs/ratio.md. With the same versions of matplotlib and LiteRT the files are the same to
the last byte.
"""

import argparse
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import keras_se
from keras_se import theory
from keras_se.layers.gates import GATES

DOCS = Path(__file__).parents[1] / "docs"
FAR, CHANNELS = 6.0, 64
SETTINGS = {
    "svg.hashsalt": "keras_se",  # else names inside the file are random
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",  # legible on a dark page, too
}


def columns(text: str, header: str) -> np.ndarray:
    """The numbers of the table of a page whose header line begins so, a row for each column."""
    rows = text.split(f"\n| {header}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return np.array([[float(cell) for cell in row.strip("|").split("|")] for row in rows]).T


def ratio() -> Figure:
    """The paper's error against r, its structural risk, and the losses on digits."""
    text = (DOCS / "ratio.md").read_text()
    ratios, error, _ = columns(text, "r | top-1")
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    paper, risk, digits = figure.subplots(1, 3)
    for panel in (paper, risk, digits):
        panel.set_xscale("log", base=2)
        panel.set_xlabel("r")
    fine = np.geomspace(2, 32, 60)
    l0, kappa = theory.fit_loss(ratios, error, 4.0)
    paper.plot(fine, l0 + kappa * fine**4 / 4, color="0.6", label="fit with p = 4")
    paper.plot(ratios, error, "o", color="C0", label="SE-ResNet-50")
    paper.axhline(23.30, color="0.3", linestyle=":", label="without SE")
    paper.set(title="ImageNet (the paper)", ylabel="top-1 error, %", xticks=ratios)
    paper.legend(frameon=False, fontsize="small")
    squares = 3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2
    for color, penalty in enumerate((1e-8, 1e-7, 1e-6)):
        values = theory.structural_risk(error, math.sqrt(squares), ratios, penalty)
        above, best = values - values.min(), int(values.argmin())
        risk.plot(ratios, above, ".-", color=f"C{color}", label=f"λ = {penalty:g}")
        risk.plot(ratios[best], above[best], "o", color=f"C{color}")
    risk.set(title="J(r) above its minimum", ylabel="points", ylim=(-0.02, 0.9), xticks=ratios)
    risk.legend(frameon=False, fontsize="small", loc="upper right")
    ratios, two, _, one, _ = columns(text, "r | validation")
    digits.plot(ratios, two - two[0], "o-", label="two convolutions")
    digits.plot(ratios, one - one[0], "o-", label="one convolution")
    digits.set(title="digits", ylabel="loss above that of r = 1", xticks=ratios)
    digits.legend(frameon=False, fontsize="small")
    for panel in (paper, risk, digits):
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()
    return figure


def gates() -> Figure:
    """The gates and their derivatives."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    v = np.linspace(-FAR, FAR, 97)
    for n, name in enumerate(GATES):
        # In a column of its own beside zeros, as softmax needs others to compete with.
        rows = np.zeros((len(v), CHANNELS if name == "softmax" else 1), "float32")
        rows[:, 0] = v
        values = keras.ops.convert_to_numpy(GATES[name].function(rows))[:, 0]
        style = {"color": f"C{n}", "linestyle": "--" if n % 2 else "-"}
        label = f"softmax, C = {CHANNELS}" if name == "softmax" else name
        panels[0].plot(v, values, label=label, **style)
        panels[1].plot(v, np.gradient(values, v), **style)
    panels[0].set(title="gate(v)", ylim=(-1.2, 3), xlabel="v")
    panels[1].set(title="its derivative", ylim=(-0.1, 1.3), xlabel="v")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def stairs(gate: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values v before a gate, the gate in float, and the gate of an int8 file."""
    block = keras_se.SEBlock(width=1, gate=gate)
    model = keras.Sequential([keras.Input((4, 4, CHANNELS)), block])
    # The first channel passes the bottleneck as it is, the v of all others is 0.
    one = np.zeros((CHANNELS, 1))
    one[0] = 1.0
    block.set_excitation(one, np.zeros(1), one.T, -FAR * one[:, 0], layout="dense")
    v = np.linspace(-FAR, FAR, 256, dtype="float32")
    x = np.full((len(v), 4, 4, CHANNELS), FAR, "float32")
    x[..., 0] = v[:, None, None] + FAR
    mixed = np.random.default_rng(0).permutation(x)  # the file is tried on the first few
    tflite = keras_se.to_tflite(model, "int8", calibration=mixed)
    return v, block.gates(x)[:, 0], keras_se.read_gates(tflite, x)["se_1"][:, 0]


def gates_int8() -> Figure:
    """What an int8 file computes of each gate, around its steepest part."""
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    for panel, name in zip(figure.subplots(2, 3).flat, GATES, strict=True):
        v, wanted, found = stairs(name)
        near = (v > 3) & (v < 5) if name == "softmax" else np.abs(v) < 1
        panel.plot(v[near][::3], wanted[near][::3], color="0.6", label="float")
        panel.step(v[near], found[near], color="C0", where="mid", label="int8")
        panel.set_title(f"softmax, C = {CHANNELS}" if name == "softmax" else name)
        panel.set_xlabel("v")
    figure.axes[0].legend(frameon=False)
    return figure


def fresh() -> Figure:
    """The gates of fresh blocks, sorted."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    x = np.random.default_rng(0).uniform(0, 1, (64, 8, 8, CHANNELS)).astype("float32")
    shares = np.linspace(0, 1, 51)
    for n, name in enumerate(GATES):
        keras.utils.set_random_seed(0)
        found = keras_se.SEBlock(4, gate=name).gates(x)
        style = {"color": f"C{n}", "linestyle": "--" if n % 2 else "-"}
        panel.plot(shares, np.quantile(found, shares), label=name, **style)
    identity = keras_se.SEBlock(4, gate="one_plus_tanh", identity_init=True).gates(x)
    label = "one_plus_tanh, identity_init"
    panel.plot(shares, np.quantile(identity, shares), color="black", linestyle=":", label=label)
    panel.set(xlabel="share of the gates of 64 channels and 64 images", ylabel="gate")
    figure.legend(loc="outside right center", frameon=False)
    return figure


FIGURES: dict[str, Callable[[], Any]] = {
    "fresh": fresh,
    "gates": gates,
    "gates-int8": gates_int8,
    "ratio": ratio,
}


def drawn(name: str) -> bytes:
    """A figure as SVG."""
    image = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        FIGURES[name]().savefig(image, format="svg", metadata={"Date": None, "Creator": None})
    return image.getvalue()


def main() -> None:
    """Draws the figures, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("names", nargs="*", default=[*FIGURES], metavar="NAME")
    arguments = parser.parse_args()
    changed = []
    for name in arguments.names:
        path, image = DOCS / "images" / f"{name}.svg", drawn(name)
        if not path.is_file() or path.read_bytes() != image:
            changed.append(name)
            if not arguments.check:
                path.write_bytes(image)
        print(f"{path.name}: {len(image):,} bytes{', changed' * (name in changed)}")
    if arguments.check and changed:
        sys.exit(f"They would change: {', '.join(changed)}")


if __name__ == "__main__":
    main()
