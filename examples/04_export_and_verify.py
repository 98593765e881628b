"""A network converted to int8, and a verdict on each of its gates."""

import keras
from sklearn.datasets import load_digits

import keras_se
import keras_se.litert.devices.delegation
from keras_se import SEBlock
from keras_se.litert.runtime import predict

digits = load_digits()
x, y = digits.images[..., None].astype("float32"), digits.target
x_train, x_test = x[:1400], x[1400:]
y_test = y[1400 : 1400 + len(x_test)]

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
        SEBlock(ratio=4, gate="one_plus_tanh"),
        keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        SEBlock(ratio=4, gate="one_plus_tanh"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
model.fit(x_train, y[:1400], epochs=10, verbose=0)

files = {}
for file_format in ("float32", "float16", "dynamic", "weight_only", "int8", "int16x8"):
    tflite = keras_se.to_tflite(model, file_format, calibration=x_train[:300])
    files[file_format] = tflite
    sites = keras_se.litert.devices.delegation.delegation(tflite).sites
    partitions = [site.partitions for site in sites.values()]
    print(f"{file_format}: {len(tflite):,} bytes, delegate partitions of the sites {partitions}")

for file_format in ("float32", "int8"):
    report = keras_se.verify(model, files[file_format], x_test, y_test)
    print(f"{file_format}, {len(files[file_format]):,} bytes")
    print(report)

try:
    keras_se.to_tflite(model, "int8", calibration=0.1 * x_train[:300])
except ValueError as error:  # BatchNormalization remembers the range of the training images
    print(error)

dark = keras_se.to_tflite(model, "int8", calibration=0.1 * x_train[:300], check_range=False)
report = keras_se.verify(model, dark, x_test)
print(f"int8, calibrated on images that are ten times too dark: {report.verdict}")
for site in report.sites.values():
    print(f"  {site.name}: {site.verdict}, {site.reason}; lost by: {site.blame}")

# What a phone computed: the gates are further outputs of a twin of the file.
int8 = files["int8"]
twin = predict(keras_se.litert.probe(int8), x_test)  # on the phone, in earnest
recorded = {name: values for name, values in twin.items() if name.startswith("gate_")}
print(keras_se.verify(model, int8, x_test, gates=recorded).verdict)

# The same from two files alone, whoever converted them; the float one is the reference.
print(keras_se.verify(files["float32"], int8, x_test).conclusion)

# One site left in float inside of the integer file.
mixed = keras_se.to_tflite(model, "int8", calibration=x_train[:300], keep_float=["se_2"])
print(f"{len(mixed) - len(int8)} bytes more, {keras_se.verify(model, mixed, x_test).verdict}")

# The smallest file that passes; and float operators in the dark one, which cannot help: what is
# clipped at its input is gone.
print(keras_se.deploy(model, x_train[:300], x_test, y_test, tolerance=0.05))
print(keras_se.repair(files["float32"], dark, x_test, y_test, tolerance=0.05))
