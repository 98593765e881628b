"""What surgery does to the networks of keras.applications, every weight randomized.

Called with `insert` or `adopt`, and names of networks where not all are wanted.
"""

import sys
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_se

INSERT = {  # input size
    "ResNet50": 64,
    "ResNet50V2": 64,
    "MobileNetV2": 64,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "VGG16": 32,
    "EfficientNetB0": 32,
    "ConvNeXtTiny": 32,
}
ADOPT = (
    *("MobileNetV3Small", "MobileNetV3Large"),
    *(f"EfficientNetB{n}" for n in range(8)),
    *(f"EfficientNetV2{n}" for n in ("B0", "B1", "B2", "B3", "S", "M", "L")),
)


def network(name: str, size: int) -> keras.Model:
    """A network of `keras.applications` with logits, every weight randomized."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Normalization):
            for variable in layer.weights:
                variable.assign(weight(rng, layer, variable))
    return model


def weight(rng: np.random.Generator, layer: Any, variable: Any) -> np.ndarray:
    """Random values that keep activations finite: statistics and layer scale included."""
    shape, name = variable.shape, variable.path.split("/")[-1]
    if "variance" in name or name == "gamma":
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) < 2:
        return 0.2 * rng.normal(size=shape)
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    fan_in = np.prod(shape[:2] if is_depthwise else shape[:-1])
    return rng.normal(size=shape) * np.sqrt(2 / fan_in)


def eager(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The logits, layer by layer."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def predicted(model: keras.Model, x: np.ndarray, jit_compile: bool) -> np.ndarray:
    """The logits of `predict`."""
    model.compile(jit_compile=jit_compile)
    return np.asarray(model.predict(x, verbose=0))


def insert_row(name: str, size: int) -> list[str]:
    """The largest differences after `insert`, over the scale of the logits."""
    model = network(name, size)
    x = np.random.default_rng(1).uniform(0, 2.55, (2, size, size, 3)).astype("float32")
    new = keras_se.insert(model)
    expected = eager(model, x)
    scale = np.abs(expected).max()
    row = [name, str(len(keras_se.find_sites(new))), f"{error(eager(new, x), expected, scale):.1e}"]
    for jit_compile in (False, True):
        old, values = (predicted(m, x, jit_compile) for m in (model, new))
        row += [f"{error(values, old, scale):.1e}", f"{error(old, expected, scale):.1e}"]
    back = keras_se.remove(new)
    row.append(f"{error(eager(back, x), expected, scale):.1e}")
    changed = keras_se.insert(model, gate="sigmoid", identity_init=False)
    return [*row, f"{error(eager(changed, x), expected, scale):.1e}"]


def adopt_row(name: str) -> list[str]:
    """The sites that are written out, those adopted, and the largest difference."""
    model = network(name, 32)
    x = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    sites, new = keras_se.find_sites(model), keras_se.adopt(model)
    expected = eager(model, x)
    scale = np.abs(expected).max()
    difference = error(eager(new, x), expected, scale)
    control = error(eager(keras_se.remove(new), x), expected, scale)
    blocks = [site for site in keras_se.find_sites(new) if site.source == "SEBlock"]
    gates = "/".join(sorted({site.gate for site in sites}))
    same = "equal" if new.count_params() == model.count_params() else "differ"
    figures = (f"{difference:.1e}", f"{control:.1e}")
    return [name, str(len(sites)), str(len(blocks)), gates, *figures, same]


def error(values: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """The largest difference over `scale`."""
    return float(np.abs(values - expected).max() / scale)


def main() -> None:
    """Prints the table that is asked for."""
    what, *names = sys.argv[1:] or ["insert"]
    if what == "adopt":
        columns = ("network", "inline", "adopted", "gate", "difference", "without SE", "parameters")
        rows = [adopt_row(name) for name in names or ADOPT]
    else:
        columns = (
            *("network", "sites", "eager", "predict", "its own", "predict, jit", "its own"),
            *("removed", "not identity"),
        )
        rows = [insert_row(name, INSERT[name]) for name in names or INSERT]
        print("its own: eager against predict of the original, without SE")
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
