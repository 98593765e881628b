"""Training with compression: int8, fewer weights, fewer values; and what became of the gates."""

import keras
from sklearn.datasets import load_digits

from keras_se import SEBlock, compress, compression_report
from keras_se.compress import cluster, prune, quantize_aware, strip

digits = load_digits()
x, y = digits.images[..., None].astype("float32"), digits.target
x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 16),
        keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        SEBlock(ratio=2, gate="one_plus_tanh"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        SEBlock(ratio=4, gate="one_plus_tanh"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)


def fitted(network, rate, epochs):
    """The network, trained on."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(rate)
    network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    network.fit(x_train, y_train, epochs=epochs, verbose=0)
    return network


fitted(model, 3e-3, 10)
for name, compressed, rate in (
    ("int8", quantize_aware(model, x_train[:300]), 1e-4),
    ("half of the weights zero", prune(model, 0.5), 1e-3),
    ("16 values in each kernel", cluster(model, 16), 1e-3),
):
    fitted(compressed, rate, 2).save("compressed.keras")
    again = compress.load("compressed.keras")  # it could be trained further, too
    print(name, [layer.name for layer in strip(again).layers][-3:])
    print(compression_report(model, again, x_test, y_test))
