"""An SE block in a Keras model: train, save, load, and look at the gates.

On scikit-learn's digits (UCI, CC BY 4.0):
`python examples/01_block.py [--epochs 10]`.
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_se
from keras_se import SEBlock


def network() -> keras.Model:
    """Three convolutions, the second with an SE block."""
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
            SEBlock(ratio=4),
            keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Trains on 1,400 digits and shows the gates of the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args(argv)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target

    keras.utils.set_random_seed(0)
    model = network()
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling so small a network takes longer than training it
    )
    model.fit(x[:1400], y[:1400], epochs=arguments.epochs, verbose=0)
    held_out = model.evaluate(x[1400:], y[1400:], verbose=0, return_dict=True)
    print(f"accuracy on held-out digits {held_out['accuracy']:.3f}")

    model.save("se_digits.keras")
    model = keras.saving.load_model("se_digits.keras")  # no custom_objects: keras_se is imported
    for site in keras_se.find_sites(model):
        gates = keras_se.read_gates(model, x[1400:])[site.name]
        print(f"{site.name} after {site.after}: C={site.channels}, width={site.width}, {site.gate}")
        print(f"  gates {gates.shape}: mean {gates.mean():.3f}")
        by_class = [gates[y[1400:] == label].mean(axis=0) for label in range(10)]
        moved = np.ptp(by_class, axis=0)
        print(
            f"  channel {moved.argmax()} follows the class most: {moved.max():.3f} between classes"
        )


if __name__ == "__main__":
    main()
