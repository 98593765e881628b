"""A search over the reduction ratio and the gate: shared seeds, a rule of choice, fresh seeds.

On scikit-learn's digits (UCI, CC BY 4.0):
`python examples/03_search.py [--epochs 3] [--ratios 2 8] [--directory se_search]`.
"""

import argparse

import keras
from sklearn.datasets import load_digits

import keras_se
import tuning


def build_network() -> keras.Model:
    """The network without SE blocks, built anew for each seed."""
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


def main(argv: list[str] | None = None) -> None:
    """Searches on digits, and builds the winner."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratios", type=float, nargs="+", default=(2, 8))
    parser.add_argument("--directory", default="se_search")
    arguments = parser.parse_args(argv)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target

    result = tuning.search(
        build_network,
        (x[:900], y[:900]),
        (x[900:1300], y[900:1300]),
        tuning.SESpace(ratios=arguments.ratios, gates=("sigmoid",)),  # and the network without SE
        tuning.Cheapest(0.02, metric="val_accuracy", max_seeds=arguments.seeds + 1),
        test=(x[1300:], y[1300:]),
        epochs=arguments.epochs,
        batch_size=64,
        seeds=arguments.seeds,
        fresh_seeds=2,
        compile={
            "optimizer": "adam",
            "learning_rate": 3e-3,
            "loss": {
                "class_name": "SparseCategoricalCrossentropy",
                "config": {"from_logits": True},
            },
            "metrics": ["accuracy"],
            "jit_compile": False,  # compiling each trial costs more than it saves
        },
        directory=arguments.directory,  # the same call goes on there, after whatever ended it
    )
    print(result.sentence)
    print("cannot be told from the best:", ", ".join(result.tied))
    print("on fresh seeds:", result.confirmation)

    model = result.model()
    print(f"the winner has {model.count_params():,} parameters")
    planned = keras_se.insert(build_network(), plan=result.plan) if result.plan else build_network()
    print(f"built from the plan, it has as many: {planned.count_params():,}")


if __name__ == "__main__":
    main()
