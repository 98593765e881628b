"""A network converted to int8, and a verdict on each of its gates.

On scikit-learn's digits (UCI, CC BY 4.0):
`python examples/04_export_and_verify.py [--epochs 10]`.
"""

import argparse
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_se
import keras_se.litert.devices.delegation
from keras_se import SEBlock
from keras_se.litert.runtime import predict

FORMATS = ("float32", "float16", "dynamic", "weight_only", "int8", "int16x8")


def trained(x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    """A network with two SE blocks."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16)])
    for filters, strides, with_se in ((16, 1, False), (32, 2, True), (32, 1, True)):
        model.add(keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
        if with_se:
            model.add(SEBlock(ratio=4, gate="one_plus_tanh"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


def converted(model: keras.Model, calibration: np.ndarray, formats: Any) -> dict[str, bytes]:
    """A file in each format."""
    files = {}
    for name in formats:
        files[name] = keras_se.to_tflite(model, name, calibration=calibration)
        sites = keras_se.litert.devices.delegation.delegation(files[name]).sites
        partitions = [site.partitions for site in sites.values()]
        print(f"{name}: {len(files[name]):,} bytes, delegate partitions of the sites {partitions}")
    return files


def show_a_failure(model: keras.Model, calibration: np.ndarray, x: np.ndarray) -> bytes:
    """A file that is calibrated on images ten times too dark, and what `verify` says of it."""
    try:
        keras_se.to_tflite(model, "int8", calibration=0.1 * calibration)
    except ValueError as error:  # BatchNormalization remembers the range of the training images
        print(error)
    dark = keras_se.to_tflite(model, "int8", calibration=0.1 * calibration, check_range=False)
    report = keras_se.verify(model, dark, x)
    print(f"int8, calibrated on images that are ten times too dark: {report.verdict}")
    for site in report.sites.values():
        print(f"  {site.name}: {site.verdict}, {site.reason}; lost by: {site.blame}")
    return dark


def main(argv: list[str] | None = None) -> None:
    """Converts, verifies, fails, and tries to repair."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="float32 and int8 among them")
    arguments = parser.parse_args(argv)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target
    calibration, x_test, y_test = x[:300], x[1400:], y[1400:]

    model = trained(x[:1400], y[:1400], arguments.epochs)
    files = converted(model, calibration, arguments.formats)
    int8 = files["int8"]
    print(keras_se.verify(model, int8, x_test, y_test))
    dark = show_a_failure(model, calibration, x_test)

    # What a phone computed: the gates are further outputs of a twin of the file.
    twin = predict(keras_se.litert.probe(int8), x_test)  # on the phone, in earnest
    recorded = {name: values for name, values in twin.items() if name.startswith("gate_")}
    print(keras_se.verify(model, int8, x_test, gates=recorded).verdict)

    # The same from two files alone, whoever converted them; the float one is the reference.
    print(keras_se.verify(files["float32"], int8, x_test).conclusion)

    # One site left in float inside of the integer file.
    mixed = keras_se.to_tflite(model, "int8", calibration=calibration, keep_float=["se_2"])
    print(f"{len(mixed) - len(int8)} bytes more, {keras_se.verify(model, mixed, x_test).verdict}")

    # Float operators in the dark file, which cannot help: what is clipped at its input is gone.
    # `deploy`, in 07_transfer_learning.py, makes another file.
    print(keras_se.repair(files["float32"], dark, x_test, y_test, tolerance=0.05))


if __name__ == "__main__":
    main()
