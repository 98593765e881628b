"""Training with compression on real images: accuracy, size and gates, over several seeds.

    python benchmarks/compressing.py cifar10.npz

Small SE networks are trained, then compressed after training and in training, each technique from
the same trained network. The second table has the same networks with two outlier channels: they are
scaled by 200 and undone in the next kernels, so that the network computes the same, and its int8
ranges are 200 times too wide for all other channels. The third has networks with dropout.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se import SEBlock
from keras_se.compress import cluster, equalize, prune, quantize_aware, strip
from keras_se.compress.quantization import Engine
from keras_se.data import Pair, load_images
from keras_se.graph.models import sublayers
from keras_se.layers import FakeQuantize, QuantizeAwareSEBlock

layers = keras.layers
TRAIN, TEST, CALIBRATION = 10_000, 2_000, 200
EPOCHS, MORE_EPOCHS, BATCH = 8, 2, 64
OUTLIER = 200.0


@dataclass
class Images:
    """Images in [0, 1] with their labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @classmethod
    def of(cls, train: Pair, test: Pair | None) -> "Images":
        """The first of each part."""
        held_out = train if test is None else test
        return cls(
            train[0][:TRAIN] / np.float32(255.0),
            train[1][:TRAIN],
            held_out[0][:TEST] / np.float32(255.0),
            held_out[1][:TEST],
        )

    @property
    def calibration(self) -> np.ndarray:
        """Some of the training images."""
        return self.x_train[:CALIBRATION]


@dataclass
class Figures:
    """What was measured for one technique, a value for each seed."""

    accuracy: list[float] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    zipped: list[int] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    r2: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


def network(shape: tuple[int, ...], dropout: float = 0.0) -> keras.Model:
    """Three stages of convolution, BatchNormalization, ReLU and SE."""
    x = inputs = keras.Input(shape)
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = SEBlock(4, bias_initializer=keras.initializers.Constant(0.1))(x)
        x = layers.MaxPooling2D(2)(x)
        if dropout:
            x = layers.SpatialDropout2D(dropout / 2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def fitted(model: Any, images: Images, epochs: int, rate: float) -> Any:
    """The model, trained on, at a rate that falls to zero."""
    steps = epochs * -(-len(images.x_train) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **({"jit_compile": False} if isinstance(model, keras.Model) else {}),
    )
    model.fit(images.x_train, images.y_train, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def with_outliers(model: keras.Model) -> keras.Model:
    """The same function, with two channels of each stage scaled by 200."""
    new_model = keras.models.clone_model(model)
    new_model.set_weights(model.get_weights())
    stages = [layer for layer in new_model.layers if layer.weights]
    for normalization, block, following in zip(
        stages[1::3], stages[2::3], stages[3::3], strict=True
    ):
        for variable, axis, power in (
            (normalization.gamma, 0, 1),
            (normalization.beta, 0, 1),
            (block.w1, 0, -1),
            (following.kernel, -2, -1),
        ):
            values = variable.numpy()
            np.moveaxis(values, axis, 0)[:2] *= OUTLIER**power
            variable.assign(values)
    return new_model


def record(
    figures: Figures, original: keras.Model, tflite: bytes, images: Images, reference: Any
) -> None:
    """Measures a file."""
    compressed = original if reference is None else reference
    report = keras_se.compression_report(
        original, compressed, images.x_test, images.y_test, tflite=tflite
    )
    file = report.stages["file"]
    figures.accuracy.append(file.outcome.file)
    figures.size.append(file.tflite_size.plain)
    figures.zipped.append(file.tflite_size.zipped)
    figures.verdicts.append(report.gates.verdict)
    for site in report.gates.sites.values():
        if site.r2 is not None:
            figures.r2.append(site.r2)
        if site.spread_kept is not None:
            figures.kept.append(site.spread_kept)
        if site.p99_error is not None:
            figures.p99.append(site.p99_error / site.step)
        if site.failed:
            figures.reasons.add(f"{site.name}: {site.reason}")


Technique = Callable[[keras.Model, Images], tuple[bytes, Any]]


def in_float(model: keras.Model, images: Images) -> tuple[bytes, Any]:
    """A file of float32."""
    return keras_se.to_tflite(model, "float32"), None


def longer(model: keras.Model, images: Images) -> tuple[bytes, Any]:
    """The network trained on for as long as the compressed ones are."""
    longer = keras.models.clone_model(model)
    longer.set_weights(model.get_weights())
    fitted(longer, images, MORE_EPOCHS, 1e-4)
    return keras_se.to_tflite(longer, "float32"), longer


def after_training(model: keras.Model, images: Images) -> tuple[bytes, Any]:
    """int8 after training."""
    return keras_se.to_tflite(model, "int8", images.calibration), None


def cold(quantized: Any) -> None:
    """Ranges as without calibration: ±6 at first, and slow."""
    for part in (*quantized.layers, *(p for v in quantized.layers for p in sublayers(v))):
        if isinstance(part, FakeQuantize) and part.fixed is None:
            part.low.assign(-6.0)
            part.high.assign(6.0)
            part.momentum = 0.999


def regularized(quantized: Any) -> None:
    """A loss that falls with the spread of the gates over a batch."""
    ops = keras.ops

    def steady(gates: Any) -> Any:
        return -0.5 * ops.mean(ops.sqrt(ops.var(gates, axis=0) + 1e-6))

    for layer in quantized.layers:
        if isinstance(layer, QuantizeAwareSEBlock):
            layer.gating.activity_regularizer = steady


def aware(
    engine: Engine = "keras",
    rate: float = 1e-4,
    is_equalized: bool = False,
    change: Callable[[Any], None] | None = None,
) -> Technique:
    """Quantization-aware training."""

    def technique(model: keras.Model, images: Images) -> tuple[bytes, Any]:
        start = equalize(model, images.calibration) if is_equalized else model
        quantized = quantize_aware(start, images.calibration, engine=engine)
        if change is not None:
            change(quantized)
        fitted(quantized, images, MORE_EPOCHS, rate)
        return keras_se.to_tflite(quantized), quantized

    return technique


def untrained(model: keras.Model, images: Images) -> tuple[bytes, Any]:
    """Equalized, then int8 after training."""
    same = equalize(model, images.calibration)
    return keras_se.to_tflite(same, "int8", images.calibration), same


def pruned(sparsity: float) -> Technique:
    """A share of the weights zero, in a file of float32."""

    def technique(model: keras.Model, images: Images) -> tuple[bytes, Any]:
        sparse = strip(fitted(prune(model, sparsity), images, MORE_EPOCHS, 1e-3))
        return keras_se.to_tflite(sparse, "float32"), sparse

    return technique


def clustered(model: keras.Model, images: Images) -> tuple[bytes, Any]:
    """Sixteen values for each kernel, in a file of float32."""
    few = strip(fitted(cluster(model, 16), images, MORE_EPOCHS, 1e-4))
    return keras_se.to_tflite(few, "float32"), few


def pruned_aware(engine: Engine) -> Technique:
    """80 % of the weights zero, and int8 with these zeros."""

    def technique(model: keras.Model, images: Images) -> tuple[bytes, Any]:
        sparse = strip(fitted(prune(model, 0.8), images, MORE_EPOCHS, 1e-3))
        quantized = quantize_aware(sparse, images.calibration, preserve="sparsity", engine=engine)
        fitted(quantized, images, MORE_EPOCHS, 1e-4)
        return keras_se.to_tflite(quantized), quantized

    return technique


SOUND: dict[str, Technique] = {
    "float32": in_float,
    "float32, trained on": longer,
    "int8 after training": after_training,
    "QAT int8": aware(),
    "QAT int8, engine='tfmot'": aware("tfmot"),
    "50 % sparsity, float32": pruned(0.5),
    "80 % sparsity, float32": pruned(0.8),
    "16 clusters, float32": clustered,
    "80 % sparsity, QAT int8": pruned_aware("keras"),
    "80 % sparsity, QAT int8, engine='tfmot'": pruned_aware("tfmot"),
}
OUTLIERS: dict[str, Technique] = {
    "float32": in_float,
    "int8 after training": after_training,
    "QAT int8": aware(),
    "QAT int8, engine='tfmot'": aware("tfmot"),
    "QAT int8, rate 1e-5": aware(rate=1e-5),
    "QAT int8, rate 1e-3": aware(rate=1e-3),
    "QAT int8, gate regularizer": aware(change=regularized),
    "QAT int8, cold ranges": aware(change=cold),
    "equalized, int8 after training": untrained,
    "equalized, QAT int8": aware(is_equalized=True),
}
DROPOUT: dict[str, Technique] = {
    name: SOUND[name]
    for name in (
        *("float32", "float32, trained on", "int8 after training", "QAT int8"),
        *("QAT int8, engine='tfmot'", "50 % sparsity, float32", "16 clusters, float32"),
    )
}


def shown(title: str, rows: dict[str, Figures]) -> Table:
    """The figures as a table."""
    table = Table(
        *("", "accuracy %, seeds", "mean", "kB", "gzip kB", "lowest R²", "p99, steps"),
        *("spread kept", "verdicts"),
        title=title,
    )
    for name, figures in rows.items():
        verdicts = [f"{figures.verdicts.count(v)} {v}" for v in sorted(set(figures.verdicts))]
        table.add_row(
            name,
            " ".join(f"{100 * a:.1f}" for a in figures.accuracy),
            f"{100 * statistics.mean(figures.accuracy):.2f}",
            f"{statistics.mean(figures.size) / 1000:.1f}",
            f"{statistics.mean(figures.zipped) / 1000:.1f}",
            f"{min(figures.r2):.3f}" if figures.r2 else "",
            f"{min(figures.p99):.1f}-{max(figures.p99):.1f}" if figures.p99 else "",
            f"{min(figures.kept):.2f}-{max(figures.kept):.2f}" if figures.kept else "",
            ", ".join(verdicts),
        )
    return table


@click.command()
@click.argument("data")
@click.option("--seeds", default=3, show_default=True)
def main(data: str, seeds: int) -> None:
    """Prints the tables, and each file as it is measured."""
    images = Images.of(*load_images(data))
    console = Console(width=170)
    tables: dict[str, dict[str, Figures]] = {"sound": {}, "two outlier channels": {}, "dropout": {}}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        shape = images.x_train.shape[1:]
        model = fitted(network(shape), images, EPOCHS, 2e-3)
        dropping = fitted(network(shape, dropout=0.3), images, EPOCHS, 2e-3)
        cases = {
            "sound": (model, SOUND),
            "two outlier channels": (with_outliers(model), OUTLIERS),
            "dropout": (dropping, DROPOUT),
        }
        for title, (start, techniques) in cases.items():
            for name, technique in techniques.items():
                keras.utils.set_random_seed(seed)
                tflite, reference = technique(start, images)
                figures = tables[title].setdefault(name, Figures())
                record(figures, start, tflite, images, reference)
                console.print(
                    f"seed {seed}, {title}, {name}: {figures.accuracy[-1]:.4f}, "
                    f"{figures.size[-1]} bytes, {figures.verdicts[-1]}"
                )
                for reason in sorted(figures.reasons):
                    console.print(f"  {reason}")
    for title, rows in tables.items():
        console.print(shown(title, rows))


if __name__ == "__main__":
    main()
