"""SE blocks put into a trained CNN: the function is kept, then trained further.

On scikit-learn's digits (UCI, CC BY 4.0):
`python examples/02_insert.py [--epochs 5]`.
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_se

DIGITS = load_digits()
X, Y = DIGITS.images[..., None].astype("float32"), DIGITS.target


def network() -> keras.Model:
    """Two convolutions without SE."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def compile_and_fit(model: keras.Model, epochs: int) -> float:
    """Trains on the first 1,400 digits, and returns the accuracy on the others."""
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling so small a network takes longer than training it
    )
    model.fit(X[:1400], Y[:1400], epochs=epochs, verbose=0)
    return float(model.evaluate(X[1400:], Y[1400:], verbose=0, return_dict=True)["accuracy"])


def main(argv: list[str] | None = None) -> None:
    """Inserts, trains, removes, adopts, and follows a plan."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args(argv).epochs

    keras.utils.set_random_seed(0)
    plain = network()
    print(f"plain CNN: accuracy {compile_and_fit(plain, epochs):.3f}")
    for place in keras_se.candidates(plain):
        print(f"  a block could stand at {place.name}, after {place.after}, C={place.channels}")

    model = keras_se.insert(plain, ratio=4)
    before, after = plain(X[:64], training=False), model(X[:64], training=False)
    print(f"largest difference after insertion: {np.abs(before - after).max()}")
    print(f"trained further: accuracy {compile_and_fit(model, epochs):.3f}")

    report = keras_se.cost(model)
    print(f"SE takes {report.se_parameters} of {report.parameters} parameters")
    print("without its blocks again:", keras_se.remove(model).count_params())

    mobilenet = keras.applications.MobileNetV3Small(input_shape=(64, 64, 3), weights=None)
    adopted = keras_se.adopt(mobilenet)  # SE that is written out becomes SEBlocks
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    difference = np.abs(mobilenet(image, training=False) - adopted(image, training=False)).max()
    print(f"adopted {len(keras_se.find_sites(adopted))} sites, largest difference {difference:.1e}")

    only_the_last = keras_se.insert(plain, plan={"se_2": {"ratio": 8, "gate": "sigmoid"}})
    print("with a plan for one site:", [site.after for site in keras_se.find_sites(only_the_last)])


if __name__ == "__main__":
    main()
