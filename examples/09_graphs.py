"""Graphs: `GraphSEBlock` in a network that passes messages, cross-validated, against none.

    python examples/09_graphs.py [--data FOLDER]

MUTAG (inside the PyPI package `grakel`; the data state no licence): 188 molecules, mutagenic or
not, whose nodes are atoms of seven kinds. FOLDER holds any data set in the format of TUDataset.
"""

import argparse

import keras
import numpy as np
from keras import ops
from paired import sentence
from real_data import Graphs, graphs
from sklearn.model_selection import StratifiedKFold

from keras_se import GraphSEBlock


class Messages(keras.layers.Layer):
    """ReLU(W1 h + W2 Σ h of the neighbours), arXiv 1810.02244, equation 5."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.own = keras.layers.Dense(units)
        self.of_neighbours = keras.layers.Dense(units, use_bias=False)

    def build(self, nodes_shape: tuple, edges_shape: tuple) -> None:
        """Creates both matrices."""
        self.own.build(nodes_shape)
        self.of_neighbours.build(nodes_shape)

    def call(self, nodes, edges):  # noqa: D102
        sent = ops.take(nodes, edges[:, 0], axis=0)
        received = ops.segment_sum(sent, edges[:, 1], ops.shape(nodes)[0])
        return ops.relu(self.own(nodes) + self.of_neighbours(received))


class Readout(keras.layers.Layer):
    """The mean over the nodes of each graph."""

    def call(self, nodes, graph):  # noqa: D102
        number = ops.max(graph) + 1
        total = ops.segment_sum(nodes, graph, number)
        return total / ops.segment_sum(ops.ones_like(nodes[:, :1]), graph, number)

    def compute_output_spec(self, nodes, graph):  # noqa: D102
        return keras.KerasTensor((None, nodes.shape[-1]), nodes.dtype)


class Union(keras.utils.PyDataset):
    """The same batch for each step: a union of graphs, which `fit` must not cut into rows."""

    def __init__(self, union: Graphs, steps: int = 1) -> None:
        super().__init__()
        self.union, self.steps = union, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int):
        union = self.union
        return {"nodes": union.nodes, "edges": union.edges, "graph": union.graph}, union.labels


def network(kinds: int, classes: int, with_se: bool) -> keras.Model:
    """Three rounds of messages."""
    nodes = keras.Input((kinds,), name="nodes")
    edges = keras.Input((2,), dtype="int32", name="edges")
    graph = keras.Input((), dtype="int32", name="graph")
    x = nodes
    for _ in range(3):
        x = Messages(32)(x, edges)
        if with_se:
            x = GraphSEBlock(ratio=4)((x, graph))
    x = keras.layers.Dense(classes)(Readout()(x, graph))
    return keras.Model({"nodes": nodes, "edges": edges, "graph": graph}, x)


def score(train: Graphs, test: Graphs, with_se: bool, seed: int, steps: int) -> float:
    """Accuracy on the graphs of a fold after training on the others."""
    keras.utils.set_random_seed(seed)
    model = network(train.nodes.shape[1], int(train.labels.max()) + 1, with_se)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    model.fit(Union(train, steps), verbose=0)
    outputs = ops.convert_to_numpy(model(Union(test)[0][0], training=False))
    return float((outputs.argmax(axis=1) == test.labels).mean())


def main(argv: list[str] | None = None) -> None:
    """Cross-validates both networks on the same folds, from the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder in the text format of TUDataset")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args(argv)

    union = graphs(arguments.data)
    numbers = np.arange(len(union.labels))
    scores: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(arguments.seeds):
        folds = StratifiedKFold(arguments.folds, shuffle=True, random_state=seed)
        for train, test in folds.split(numbers, union.labels):
            for with_se, found in scores.items():
                parts = union.take(train), union.take(test)
                found.append(score(*parts, with_se, seed, arguments.steps))
    commonest = np.bincount(union.labels).max() / len(numbers)
    print(f"{len(numbers)} graphs; the commonest class has {commonest:.4f} of them")
    # A test fold over what is trained on; each graph is in the training sets of most folds.
    overlap = 1 / (arguments.folds - 1)
    print("accuracy", sentence("SE", scores[True], scores[False], overlap))


if __name__ == "__main__":
    main()
