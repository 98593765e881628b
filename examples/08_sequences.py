"""Padded sequences: SE under a mask, against no SE and SE without its mask, to a verified file.

    python examples/08_sequences.py [--data FOLDER]

JapaneseVowels (inside the PyPI package `aeon`; UCI, CC BY 4.0): nine speakers, 270 utterances to
train and 370 from other occasions to test, 7 to 29 steps of 12 cepstrum coefficients. FOLDER holds
`NAME_TRAIN.ts` and `NAME_TEST.ts` of any such data set.
"""

import argparse
import warnings
from pathlib import Path

import keras
from paired import sentence
from real_data import sequences

import keras_se

ARMS = ("none", "SE", "SE without its mask")


def network(shape: tuple[int, ...], classes: int, arm: str) -> keras.Model:
    """Two convolutions over the steps; a convolution drops the mask, so it is given on."""
    inputs = keras.Input(shape)
    mask = keras.layers.Masking().compute_mask(inputs)  # false where a step is all zeros
    x = inputs
    for filters in (32, 64):
        x = keras.layers.Conv1D(filters, 3, padding="same", activation="relu")(x)
        if arm != "none":
            x = keras_se.SEBlock(4)(x, mask=mask if arm == "SE" else None)
    x = keras.layers.GlobalAveragePooling1D()(x, mask=mask)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def main(argv: list[str] | None = None) -> None:
    """Trains all arms from shared seeds, then makes and judges a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder with NAME_TRAIN.ts and NAME_TEST.ts")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--file", type=Path, default=Path("sequences.tflite"))
    arguments = parser.parse_args(argv)

    # Meant so: what a convolution drops is given to the next block by hand.
    warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask attached to it")
    (x, y), (x_test, y_test) = sequences(arguments.data)
    lengths = (x_test != 0).any(axis=-1).sum(axis=1)
    print(f"{len(x)} and {len(x_test)} sequences of {lengths.min()} to {lengths.max()} steps")
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    kept = {}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            keras.utils.set_random_seed(seed)
            model = network(x.shape[1:], int(y.max()) + 1, arm)
            keras.utils.set_random_seed(seed)  # the same order of the data in all arms
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
            model.fit(x, y, epochs=arguments.epochs, batch_size=32, verbose=0)
            outputs = model.predict(x_test, batch_size=len(x_test), verbose=0)
            scores[arm].append(float((outputs.argmax(axis=1) == y_test).mean()))
            kept.setdefault(arm, model)
    print("accuracy", sentence("SE", scores["SE"], scores["none"]))
    print("accuracy", sentence("The mask", scores["SE"], scores["SE without its mask"]))

    model = kept["SE"]
    tflite = keras_se.to_tflite(model, "int8", x, path=arguments.file, overwrite=True)
    print(f"{arguments.file}: {len(tflite):,} bytes")
    print(keras_se.verify(model, tflite, x_test, y_test))


if __name__ == "__main__":
    main()
