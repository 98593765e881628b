"""A search over the reduction ratio and the gate with keras-tuner."""

import keras
from sklearn.datasets import load_digits

import keras_se
import tuning

digits = load_digits()
x, y = digits.images[..., None].astype("float32"), digits.target
train, validation = (x[:1000], y[:1000]), (x[1000:1400], y[1000:1400])


def build_network() -> keras.Model:
    """The network without SE blocks."""
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


def compile_network(model: keras.Model) -> None:
    """Compiles a candidate."""
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling each candidate costs more than it saves
    )


result = tuning.search(
    build_network,
    train,
    validation,
    tuning.SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh")),
    epochs=6,
    compile=compile_network,
    directory="se_search",
    on_trial=lambda trial: print(f"{trial.settings}: {trial.metrics['val_loss']:.4f}"),
)
print("best of this screening with one seed:", result.settings)

model = keras_se.insert(build_network(), plan=result.plan)
print(f"the winner has {model.count_params():,} parameters")
