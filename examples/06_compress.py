"""Training with compression: int8, fewer weights, fewer values; and what became of the gates."""

import gzip

import keras
from sklearn.datasets import load_digits

import keras_se
from keras_se import SEBlock
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


def show(name, network, tflite, reference):
    """One line on a file."""
    report = keras_se.verify(model, tflite, x_test, trained=reference)
    accuracy = network.evaluate(x_test, y_test, verbose=0)[1]
    kept = [f"{site.spread_kept:.2f}" for site in report.sites.values() if site.spread_kept]
    size = f"{len(tflite):,} bytes, {len(gzip.compress(tflite)):,} zipped"
    print(f"{name}: accuracy {accuracy:.3f}, {size}, {report.verdict}; spread kept {kept}")


fitted(model, 3e-3, 10)
show("float32", model, keras_se.to_tflite(model, "float32"), None)

for engine in ("tfmot", "keras"):
    aware = fitted(quantize_aware(model, x_train[:300], engine=engine), 1e-4, 2)
    show(f"int8, engine={engine!r}", aware, keras_se.to_tflite(aware), aware)

for name, compressed in (
    ("half of the weights zero", prune(model, 0.5)),
    ("16 values in each kernel", cluster(model, 16)),
):
    stripped = strip(fitted(compressed, 1e-3, 2))
    stripped.compile(model.optimizer, model.loss, metrics=["accuracy"], jit_compile=False)
    show(name, stripped, keras_se.to_tflite(stripped, "float32"), stripped)
