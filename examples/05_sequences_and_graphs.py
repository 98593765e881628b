"""SE beyond images: padded sequences with a mask, and graphs of different sizes.

On sequences and graphs that are drawn at random:
`python examples/05_sequences_and_graphs.py [--epochs 30]`.
"""

import argparse

import keras
import numpy as np

from keras_se import GraphSEBlock, SEBlock


def sequences(rng: np.random.Generator, epochs: int) -> None:
    """Sequences of 3 to 12 steps, padded to 12, whose class is the channel of the strongest step.

    An average over the padding would hide it; the maximum over the valid steps finds it.
    """
    lengths = rng.integers(3, 13, size=1200)
    mask = np.arange(12) < lengths[:, None]
    x = np.abs(rng.normal(size=(1200, 12, 8))).astype("float32")
    y = np.where(mask[..., None], x, 0.0).max(axis=1).argmax(axis=-1)
    x[~mask] = 0.0

    inputs = keras.Input((12, 8))
    h = keras.layers.Masking()(inputs)
    h = SEBlock(1, squeeze="max", gate="softmax")(h)  # takes the mask, and passes it on
    h = keras.layers.GlobalAveragePooling1D()(h)
    model = keras.Model(inputs, keras.layers.Dense(8)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(x[:1000], y[:1000], epochs=epochs, verbose=0)
    accuracy = model.evaluate(x[1000:], y[1000:], verbose=0, return_dict=True)["accuracy"]
    print(f"sequences: accuracy {accuracy:.3f}, chance is {1 / 8:.3f}")


def graphs(rng: np.random.Generator) -> None:
    """Graphs in the disjoint form: all nodes in one matrix, with the number of each one's graph."""
    sizes = np.array([4, 2, 7])
    nodes = rng.normal(size=(sizes.sum(), 16)).astype("float32")
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    block = GraphSEBlock(ratio=4)
    print(f"graphs: nodes {nodes.shape} -> {tuple(block((nodes, numbers)).shape)}")
    print(f"gates, one row per graph: {block.gates(nodes, numbers).shape}")
    alone = block((nodes[4:6], np.zeros(2, "int64")))
    together = block((nodes, numbers))[4:6]
    print(f"a graph alone or in company: {np.abs(np.asarray(alone) - together).max():.1e} apart")


def main(argv: list[str] | None = None) -> None:
    """Shows both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args(argv).epochs
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    sequences(rng, epochs)
    graphs(rng)


if __name__ == "__main__":
    main()
