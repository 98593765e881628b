"""One SE block, ratio 16 with biases, written by hand and in packages: all the same function.

`pip install -e ".[all,bench]"` installs the packages; what is missing is left out, and said.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import count
from typing import Any

import keras
import numpy as np

from keras_se import SEBlock

RATIO = 16
SE_BLOCK, FLOOR, NONE = "SEBlock", "memory floor", "no SE"
Layer = Callable[[Any], Any]
_number = count()


def se_block(x: Any) -> Any:
    """The layer of this library."""
    return SEBlock(RATIO)(x)


def dense(x: Any) -> Any:
    """Dense layers, and a Reshape to the axes of the map, as in most tutorials."""
    channels = x.shape[-1]
    s = keras.layers.GlobalAveragePooling2D()(x)
    s = keras.layers.Dense(_width(x), activation="relu")(s)
    s = keras.layers.Dense(channels, activation="sigmoid")(s)
    return keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, channels))(s)])


def reshape_first(x: Any) -> Any:
    """A Reshape, and Dense layers on four axes, as in the first SENets in Keras."""
    channels = x.shape[-1]
    s = keras.layers.Reshape((1, 1, channels))(keras.layers.GlobalAveragePooling2D()(x))
    s = keras.layers.Dense(_width(x), activation="relu")(s)
    s = keras.layers.Dense(channels, activation="sigmoid")(s)
    return keras.layers.Multiply()([x, s])


def convolutions(x: Any) -> Any:
    """Convolutions of 1x1 on a pooled map, as in keras.applications."""
    s = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = keras.layers.Conv2D(_width(x), 1, activation="relu")(s)
    s = keras.layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(s)
    return keras.layers.Multiply()([x, s])


def keras_cv(x: Any) -> Any:
    """The layer of keras-cv."""
    channels = x.shape[-1]
    return import_module("keras_cv").layers.SqueezeAndExcite2D(channels, _width(x))(x)


def kimm(x: Any) -> Any:
    """The block of kimm."""
    name = f"kimm_{next(_number)}"  # its default name is the same for all
    return import_module("kimm.blocks").apply_se_block(x, 1 / RATIO, name=name)


def floor(x: Any) -> Any:
    """What any SE does with the map, reading it twice and writing it once: gates are the means."""
    return x * keras.ops.mean(x, axis=(1, 2), keepdims=True)


def nothing(x: Any) -> Any:
    """No SE."""
    return x


_PEERS = {
    SE_BLOCK: se_block,
    "Dense, Reshape": dense,
    "Reshape, Dense": reshape_first,
    "1x1 conv": convolutions,
    "keras-cv": keras_cv,
    "kimm": kimm,
}
_PACKAGES = {"keras-cv": "keras_cv", "kimm": "kimm.blocks"}


def available() -> tuple[dict[str, Layer], tuple[str, ...]]:
    """Returns the peers that are here, ours first, and a sentence for each other one."""
    found, missing = dict(_PEERS), []
    for name, module in _PACKAGES.items():
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            own = error.name == module.partition(".")[0]
            missing.append(
                f"{name}: not installed." if own else f"{name}: does not import: {error}."
            )
            del found[name]
        except Exception as error:  # written for another version of Keras, say
            missing.append(f"{name}: does not import: {type(error).__name__}.")
            del found[name]
    return found, tuple(missing)


def with_same_weights(models: Mapping[str, keras.Model]) -> None:
    """Gives networks the weights of the first, and checks that they then compute the same."""
    first, *others = models.values()
    rng = np.random.default_rng(0)
    for variable in first.weights:
        variable.assign(_values(rng, variable.shape))
    x = rng.normal(size=(2, *first.input_shape[1:])).astype("float32")
    expected = keras.ops.convert_to_numpy(first(x))
    for name, model in zip(list(models)[1:], others, strict=True):
        for variable, value in zip(model.weights, first.get_weights(), strict=True):
            variable.assign(np.reshape(value, variable.shape))
        found = keras.ops.convert_to_numpy(model(x))
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()):
            raise ValueError(f"Variants must compute the same. Received: {name}, which does not")


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that keep the size of the maps, and matrices that leave no bottleneck at zero."""
    inputs = np.prod(shape[:-1])
    if inputs in (1, shape[-2] if len(shape) > 1 else 1):  # biases, matrices, kernels of 1x1
        return rng.uniform(0.0, 2.0 / inputs, shape)
    return rng.normal(size=shape) * np.sqrt(2.0 / inputs)


def _width(x: Any) -> int:
    return x.shape[-1] // RATIO
