"""Training with compression: int8, fewer weights, fewer values; and what became of the gates.

On scikit-learn's digits (UCI, CC BY 4.0):
`python examples/06_compress.py [--epochs 10]`.
"""

import argparse

import keras
from sklearn.datasets import load_digits

from keras_se import SEBlock, compress, compression_report
from keras_se.compress import cluster, prune, quantize_aware, strip

DIGITS = load_digits()
X, Y = DIGITS.images[..., None].astype("float32"), DIGITS.target


def network() -> keras.Model:
    """Two convolutions with an SE block each."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16)])
    for filters, strides, ratio in ((16, 1, 2), (32, 2, 4)):
        model.add(keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
        model.add(SEBlock(ratio=ratio, gate="one_plus_tanh"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    return model


def fitted(model: keras.Model, rate: float, epochs: int) -> keras.Model:
    """The network, trained on."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(rate)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    model.fit(X[:1400], Y[:1400], batch_size=64, epochs=epochs, verbose=0)
    return model


def main(argv: list[str] | None = None) -> None:
    """Compresses in three ways, and reports on each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="before compression; a fifth after")
    epochs = parser.parse_args(argv).epochs

    keras.utils.set_random_seed(0)
    model = fitted(network(), 3e-3, epochs)
    for name, compressed, rate in (
        ("int8", quantize_aware(model, X[:300]), 1e-4),
        ("half of the weights zero", prune(model, 0.5), 1e-3),
        ("16 values in each kernel", cluster(model, 16), 1e-3),
    ):
        fitted(compressed, rate, max(1, epochs // 5)).save("compressed.keras")
        again = compress.load("compressed.keras")  # it could be trained further, too
        print(name, [layer.name for layer in strip(again).layers][-3:])
        print(compression_report(model, again, X[1400:], Y[1400:]))


if __name__ == "__main__":
    main()
