"""SE put into a pretrained backbone that is one layer of a model: search, training, smallest file.

    python examples/07_transfer_learning.py [--data FILE.npz] [--backbone FILE.keras]

Fashion-MNIST (Debian's package `dataset-fashion-mnist`, MIT licence), or images of your own:
`x_train`, `y_train`, `x_test`, `y_test`, values 0 to 255. A backbone is trained on the lower half
of the classes, or yours is taken, which reads values 0 to 1. The transfer is to few images of the
other half, a new draw for each seed. SE is inserted with the function unchanged; its blocks and the
head are trained, then everything, or everything from the start, as without SE. All get the same
epochs, half of them at a lower rate.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from paired import sentence
from real_data import Part, images

import keras_se
import tuning

COMPILE = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["accuracy"],
    "jit_compile": False,  # compiling so small a network takes longer than training it
}


def new_backbone(shape: tuple[int, ...]) -> keras.Model:
    """Four convolutions without SE."""
    x = inputs = keras.Input(shape)
    for filters, strides in ((16, 2), (32, 1), (32, 2), (64, 1)):
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, x, name="backbone")


def classifier(backbone: keras.Model, classes: int) -> keras.Model:
    """The usual shape: the backbone as one layer, pooling, a new head."""
    inputs = keras.Input(backbone.input_shape[1:])
    x = backbone(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def fit(model: keras.Model, part: Part, epochs: int, rate: float = 1e-3) -> None:
    """Compiles and trains."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(*part, epochs=epochs, batch_size=64, verbose=0)


def fine_tune(model: keras.Model, part: Part, epochs: int, seed: int, first: type) -> None:
    """Trains the head and the layers of a type, then everything at a lower rate."""
    keras.utils.set_random_seed(seed)  # the same order of the data with SE and without
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    layers = [layer for inner in nested for layer in inner.layers]
    for layer in layers:
        layer.trainable = isinstance(layer, first)
    fit(model, part, epochs)
    for layer in layers:
        layer.trainable = True
    fit(model, part, epochs, rate=3e-4)


def accuracy(model: keras.Model, part: Part) -> float:
    """Share of the images that are classified rightly."""
    return float((model.predict(part[0], batch_size=256, verbose=0).argmax(1) == part[1]).mean())


def transferred(arguments: argparse.Namespace, old: Part, new: Part) -> keras.Model:
    """A pretrained backbone with a new head, which alone has been trained on the new classes."""
    keras.utils.set_random_seed(0)
    if arguments.backbone:
        backbone = keras.saving.load_model(arguments.backbone)
    else:
        backbone = new_backbone(old[0].shape[1:])
        pretrained = old[0][: arguments.pretraining], old[1][: arguments.pretraining]
        fit(classifier(backbone, int(old[1].max()) + 1), pretrained, arguments.epochs)
    model = classifier(backbone, int(new[1].max()) + 1)
    backbone.trainable = False
    fit(model, (new[0][: arguments.images], new[1][: arguments.images]), arguments.epochs)
    backbone.trainable = True
    return model


def search(model: keras.Model, new: Part, arguments: argparse.Namespace) -> tuning.SearchResult:
    """Chooses ratio and gate on seeds that all candidates share."""
    x, y = new
    first, last = arguments.images, 3 * arguments.images
    return tuning.search(
        model,
        (x[:first], y[:first]),
        (x[first:last], y[first:last]),
        tuning.SESpace(ratios=arguments.ratios, gates=arguments.gates, baseline=False),
        tuning.Cheapest(0.01, metric="val_accuracy", max_seeds=max(3, arguments.seeds)),
        epochs=arguments.epochs,
        seeds=min(3, arguments.seeds),
        fresh_seeds=0,  # with and without SE are compared below, on test images
        compile=COMPILE,
        directory=arguments.directory / "search",
    )


def compared(
    model: keras.Model, result: tuning.SearchResult, new: Part, test: Part, arguments: Any
) -> keras.Model:
    """Trains three ways on the same images from the same seeds; returns the last with SE."""
    firsts = {"plain": keras.Layer, "blocks first": keras_se.SEBlock, "all at once": keras.Layer}
    scores: dict[str, list[float]] = {name: [] for name in firsts}
    for seed in range(arguments.seeds):
        chosen = np.random.default_rng(seed).permutation(len(new[0]))[: arguments.images]
        part = new[0][chosen], new[1][chosen]
        for name, first in firsts.items():
            keras.utils.set_random_seed(seed)
            trained = keras_se.insert(model, plan=result.plan, placement=result.placement)
            if name == "plain":
                trained = keras_se.remove(trained)  # the model as it was, to the last bit
            fine_tune(trained, part, arguments.epochs, seed, first)
            scores[name].append(accuracy(trained, test))
    for name in ("blocks first", "all at once"):
        print(f"{name}: accuracy", sentence("SE so trained", scores[name], scores["plain"]))
    return trained


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="FILE.npz, or a folder with the files of Fashion-MNIST")
    parser.add_argument("--backbone", help="FILE.keras: a network that ends in a feature map")
    parser.add_argument("--images", type=int, default=500, help="to transfer to")
    parser.add_argument("--pretraining", type=int, default=5000, help="images to pretrain on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ratios", type=float, nargs="+", default=(2.0, 8.0))
    parser.add_argument("--gates", nargs="+", default=("sigmoid", "one_plus_tanh"))
    parser.add_argument("--directory", type=Path, default=Path("runs/transfer"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs all steps."""
    arguments = parsed(argv)
    (x, y), (x_test, y_test) = images(arguments.data)
    split = (int(y.max()) + 1) // 2
    old, new = (x[y < split], y[y < split]), (x[y >= split], y[y >= split] - split)
    test = x_test[y_test >= split], y_test[y_test >= split] - split

    model = transferred(arguments, old, new)
    print(f"only a new head on {arguments.images} images: accuracy {accuracy(model, test):.4f}")
    with_se = keras_se.insert(model, ratio=4)
    print("sites:", ", ".join(site.name for site in keras_se.find_sites(with_se)))
    some = test[0][:64]
    moved = np.abs(with_se(some, training=False) - model(some, training=False)).max()
    print(f"largest change of an output by insertion: {moved}")

    result = search(model, new, arguments)
    print(result.sentence)
    with_se = compared(model, result, new, test, arguments)
    cost = keras_se.cost(with_se)
    print(f"SE has {cost.se_parameters:,} of {cost.parameters:,} parameters")

    judged = test[0][:1000], test[1][:1000]
    path = arguments.directory / "transfer.tflite"
    print(keras_se.deploy(with_se, new[0][:300], *judged, path=path, overwrite=True))


if __name__ == "__main__":
    main()
