"""Real data for the examples: from installed packages, or from files of one's own.

Nothing is downloaded, and nothing is unpickled. README.md in this folder names the packages and the
licences of the data.
"""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_se.data import load_images

Part = tuple[np.ndarray, np.ndarray]  # inputs and integer labels

_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
_HOW = {
    "Fashion-MNIST": "`apt install dataset-fashion-mnist` on Debian",
    "JapaneseVowels": "`pip install --no-deps aeon`",
    "MUTAG": "`pip install --no-deps grakel`",
}


@dataclass(frozen=True)
class Graphs:
    """Several graphs as one union.

    Attributes:
        nodes: One-hot labels of the nodes, shape (nodes, kinds).
        edges: Indices of source and target, shape (edges, 2); both directions of each edge.
        graph: The number of its graph for each node, from 0.
        labels: A class for each graph, from 0.
    """

    nodes: np.ndarray
    edges: np.ndarray
    graph: np.ndarray
    labels: np.ndarray

    def take(self, chosen: np.ndarray) -> "Graphs":
        """Returns the union of some of the graphs, given by their numbers in rising order."""
        keeps = np.isin(self.graph, chosen)
        new_node = np.cumsum(keeps) - 1
        edges = self.edges[keeps[self.edges[:, 0]]]
        return Graphs(
            self.nodes[keeps],
            new_node[edges],
            np.searchsorted(chosen, self.graph[keeps]),
            self.labels[chosen],
        )


def images(source: str | None) -> tuple[Part, Part]:
    """Returns images of values 0 to 255, shape (N, H, W, C), to train and to test.

    Args:
        source: `FILE.npz` with `x_train`, `y_train`, `x_test` and `y_test`, or a folder with the
            four files of Fashion-MNIST, which is also what `None` stands for.
    """
    if source is not None and not Path(source).is_dir():
        train, test = load_images(source)
        if test is None:
            raise SystemExit(
                "The examples need x_train, y_train, x_test and y_test. "
                f"Received: --data {source}, without test images"
            )
        return train, test
    folder = _existing("Fashion-MNIST", source, default=_FASHION_MNIST)
    return _idx_part(folder, "train"), _idx_part(folder, "t10k")


def sequences(source: str | None) -> tuple[Part, Part]:
    """Returns sequences, padded with zeros to one length, to train and to test.

    Args:
        source: A folder with `NAME_TRAIN.ts` and `NAME_TEST.ts`; by default JapaneseVowels.

    Returns:
        Two pairs of sequences, shape (N, steps, channels), and labels.
    """
    folder = _existing("JapaneseVowels", source, "aeon", "datasets/data/JapaneseVowels")
    files = [_only(folder, f"*_{part}.ts") for part in ("TRAIN", "TEST")]
    read = [_ts_file(file) for file in files]
    steps = max(len(one) for sequences, _ in read for one in sequences)
    classes = sorted({label for _, labels in read for label in labels})
    train, test = (
        (
            np.stack([np.pad(one, ((0, steps - len(one)), (0, 0))) for one in sequences]),
            np.array([classes.index(label) for label in labels]),
        )
        for sequences, labels in read
    )
    return train, test


def graphs(source: str | None) -> Graphs:
    """Returns graphs in the text format of TUDataset.

    Args:
        source: A folder with `NAME_A.txt`, `NAME_graph_indicator.txt`, `NAME_graph_labels.txt` and
            `NAME_node_labels.txt`; by default MUTAG.
    """
    folder = _existing("MUTAG", source, "grakel", "tests/data/MUTAG")
    edges, graph, labels, kinds = (
        np.loadtxt(_only(folder, f"*_{part}.txt"), dtype="int64", delimiter=",")
        for part in ("A", "graph_indicator", "graph_labels", "node_labels")
    )
    _, classes = np.unique(labels, return_inverse=True)
    nodes = np.eye(kinds.max() + 1, dtype="float32")[kinds]
    return Graphs(nodes, edges - 1, graph - 1, classes)


def _existing(
    name: str, source: str | None, package: str = "", inside: str = "", default: str = ""
) -> Path:
    """Returns the folder of `source`, or of the data that are installed."""
    folder = Path(source or default)
    if not source and package:
        spec = importlib.util.find_spec(package)  # found without importing the package
        folder = Path(spec.origin).parent / inside if spec and spec.origin else Path(package)
    if not folder.is_dir():
        raise SystemExit(
            f"{name} must be installed ({_HOW[name]}), or --data must name its folder. "
            f"Received: {source or 'no --data'}, and no such folder"
        )
    return folder


def _only(folder: Path, pattern: str) -> Path:
    # JapaneseVowels_eq_TRAIN.ts holds the same sequences, stretched to one length.
    found = [path for path in sorted(folder.glob(pattern)) if "_eq_" not in path.name]
    if len(found) != 1:
        raise SystemExit(
            f"The folder of the data must hold one file {pattern}. "
            f"Received: {folder} with {[path.name for path in found]}"
        )
    return found[0]


def _idx_part(folder: Path, part: str) -> Part:
    x, y = (
        _idx_file(_only(folder, f"{part}-{kind}.gz"))
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return x[..., None].astype("float32"), y.astype("int64")


def _idx_file(path: Path) -> np.ndarray:
    """Returns the array of a gzipped IDX file: a type, the number of axes, sizes, bytes."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    sizes = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, "u1", offset=4 + 4 * axes).reshape(sizes)


def _ts_file(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Returns sequences (steps, channels) and labels: channels stand between colons."""
    text = path.read_text().lower().partition("@data\n")[2]
    rows = [line.strip().split(":") for line in text.splitlines() if line.strip()]
    values = [np.array([channel.split(",") for channel in row[:-1]], "float32").T for row in rows]
    return values, [row[-1] for row in rows]
