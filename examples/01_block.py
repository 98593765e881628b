"""An SE block in a Keras model: train, save, load, and look at the gates."""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_se
from keras_se import SEBlock

digits = load_digits()
x, y = digits.images[..., None].astype("float32"), digits.target

keras.utils.set_random_seed(0)
model = keras.Sequential(
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
model.compile(
    keras.optimizers.Adam(3e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=False,  # compiling so small a network takes longer than training it
)
history = model.fit(x[:1400], y[:1400], epochs=10, verbose=0, validation_data=(x[1400:], y[1400:]))
print(f"validation accuracy {history.history['val_accuracy'][-1]:.3f}")

model.save("se_digits.keras")
model = keras.saving.load_model("se_digits.keras")  # no custom_objects: keras_se is imported

for site in keras_se.find_sites(model):
    gates = keras_se.read_gates(model, x[1400:])[site.name]
    print(
        f"{site.name} after {site.after}: C={site.channels}, width={site.width}, {site.gate} gate"
    )
    print(f"  gates {gates.shape}: mean {gates.mean():.3f}")
    by_class = [gates[y[1400:] == label].mean(axis=0) for label in range(10)]
    moved = np.ptp(by_class, axis=0)
    print(f"  channel {moved.argmax()} follows the class most: {moved.max():.3f} between classes")
