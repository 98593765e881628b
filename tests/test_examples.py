"""Every example runs from start to end, on few real samples and for few epochs.

Scikit-learn's digits stand in for the packages' data, in the file formats that the examples read:
as images, as sequences of rows, and as graphs of inked pixels.
"""

import gzip
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_digits

from keras_se.sites.site import Site

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.filterwarnings(
    "ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"
)
NAMES = sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
DIGITS = load_digits()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Scripts find their neighbours and write into a temporary folder."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def eager():
    """Training steps are not traced: tracing one takes longer than the steps of these tests."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def images(folder, train=600, test=400):
    """The digits as an archive, values 0 to 255."""
    x, y = DIGITS.images * (255 / 16), DIGITS.target
    parts = {"train": slice(train), "test": slice(train, train + test)}
    arrays = {f"x_{name}": x[part] for name, part in parts.items()}
    arrays |= {f"y_{name}": y[part] for name, part in parts.items()}
    np.savez(folder / "digits.npz", **arrays)
    return str(folder / "digits.npz")


def sequences(folder, train=100, test=40):
    """The first rows of each digit as steps, in the text format of the archive of time series."""
    rng = np.random.default_rng(0)
    lines = []
    for image, label in zip(DIGITS.images[: train + test], DIGITS.target, strict=False):
        steps = image[: rng.integers(5, 9)] + 1
        lines.append(":".join(",".join(map(str, row)) for row in steps.T) + f":{label}")
    for part, some in (("TRAIN", lines[:train]), ("TEST", lines[train:])):
        text = "\n".join(["#Digits", "@problemName Digits", "@data", *some])
        (folder / f"Digits_{part}.ts").write_text(text + "\n")
    return str(folder)


def graphs(folder, number=24):
    """Zeros and ones as graphs of neighbouring inked pixels, in the text format of TUDataset."""
    edges, graph, labels, kinds = [], [], [], []
    for image in DIGITS.images[DIGITS.target < 2][:number]:
        inked = np.argwhere(image > 4)
        first = len(graph) + 1
        for i, j in np.argwhere(np.abs(inked[:, None] - inked).sum(axis=-1) == 1):
            edges.append(f"{first + i}, {first + j}")
        kinds += [int(image[tuple(pixel)]) // 8 for pixel in inked]
        labels.append(2 * DIGITS.target[DIGITS.target < 2][len(labels)] - 1)
        graph += [len(labels)] * len(inked)
    files = {"A": edges, "graph_indicator": graph, "graph_labels": labels, "node_labels": kinds}
    for name, rows in files.items():
        (folder / f"DIGITS_{name}.txt").write_text("\n".join(map(str, rows)) + "\n")
    return str(folder)


def printed(name, capsys, *arguments):
    load(name)["main"](list(arguments))
    return capsys.readouterr().out


def test_block(folder, eager, capsys):
    text = printed("01_block", capsys, "--epochs", "1")
    assert "gates (397, 32)" in text
    assert (folder / "se_digits.keras").exists()


def test_insert(eager, capsys):
    text = printed("02_insert", capsys, "--epochs", "1")
    assert "largest difference after insertion: 0.0" in text
    assert "without its blocks again: 5274" in text
    assert "adopted 9 sites" in text


def test_search(folder, eager, capsys):
    text = printed("03_search", capsys, "--epochs", "1", "--seeds", "2", "--ratios", "2")
    has, as_many = re.findall(r" (\S+)$", text.replace(" parameters", ""), re.MULTILINE)[-2:]
    assert has == as_many
    assert (folder / "se_search/result.json").exists()


def test_export_and_verify(eager, capsys):
    text = printed("04_export_and_verify", capsys, "--epochs", "2", "--formats", "float32", "int8")
    assert "Ship: the gates survive" in text
    assert "ten times too dark: gates are lost" in text


def test_sequences_and_graphs(capsys):
    text = printed("05_sequences_and_graphs", capsys)
    assert float(re.search(r"accuracy (\S+),", text)[1]) > 0.5  # chance is 0.125
    assert "a graph alone or in company: 0.0e+00 apart" in text


def test_compress(capsys):
    text = printed("06_compress", capsys, "--epochs", "3")
    assert len(re.findall(r"accuracy 0\.\d+ after 0\.\d+", text)) == 3


def own_backbone(folder):
    """A fresh network whose maps differ much from image to image."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    for filters in (8, 16):
        kernel = keras.initializers.RandomNormal(stddev=1.0)
        x = keras.layers.Conv2D(filters, 3, 2, activation="relu", kernel_initializer=kernel)(x)
    keras.Model(inputs, x, name="own").save(folder / "own.keras")
    return str(folder / "own.keras")


def test_transfer_learning(folder, eager, capsys):
    given = ("--data", images(folder), "--backbone", own_backbone(folder))
    small = ("--epochs", "2", "--seeds", "2", "--images", "128", "--ratios", "1")
    text = printed("07_transfer_learning", capsys, *given, *small, "--gates", "one_plus_tanh")
    assert "sites: own/se_1, own/se_2" in text
    assert "largest change of an output by insertion: 0.0" in text
    for way in ("blocks first", "all at once"):
        assert re.search(rf"{way}: accuracy 0\.\d+ with, .* 2 pairs\)\. SE so trained ", text)
    assert (folder / "runs/transfer/search/result.json").exists()
    assert (folder / "runs/transfer/transfer.tflite").exists()


def test_a_backbone_is_pretrained_on_other_classes(folder, eager):
    x, y = DIGITS.images[..., None] * (255 / 16), DIGITS.target
    example = load("07_transfer_learning")
    arguments = example["parsed"](["--epochs", "8", "--images", "300", "--pretraining", "300"])
    old, new = (x[y < 5], y[y < 5]), (x[y >= 5], y[y >= 5] - 5)
    model = example["transferred"](arguments, old, new)
    assert model.get_layer("backbone").trainable
    assert example["accuracy"](model, (new[0][300:], new[1][300:])) > 0.3  # chance is 0.2


def test_sequences(folder, eager, capsys):
    text = printed(
        "08_sequences", capsys, "--data", sequences(folder), "--epochs", "2", "--seeds", "2"
    )
    assert "100 and 40 sequences of 5 to 8 steps" in text
    assert re.search(r"The mask (is not shown to help|helps|harms)\.", text)
    assert " se_2  64 " in text
    assert (folder / "sequences.tflite").stat().st_size > 10_000


def test_graphs(folder, eager, capsys):
    small = ("--steps", "3", "--seeds", "2", "--folds", "2")
    text = printed("09_graphs", capsys, "--data", graphs(folder), *small)
    assert "24 graphs; the commonest class has 0.5" in text
    assert re.search(r"accuracy 0\.\d+ with, 0\.\d+ without: .* 4 pairs\)\. SE ", text)


def test_gates_by_class(folder, eager, capsys):
    small = ("--images", "300", "--epochs", "1", "--seeds", "2")
    text = printed("10_gates_by_class", capsys, "--data", images(folder), *small)
    assert [row[:4] for row in text.splitlines() if row.startswith("se_")][-1] == "se_6"
    assert "the class more is" in text
    assert "that the last gates saturate is" in text
    assert (folder / "gates_by_class.svg").read_text().count("class 9") >= 1


def test_each_example_is_run_here():
    text = Path(__file__).read_text()
    assert len(NAMES) == 10
    assert all(f'"{name}"' in text for name in NAMES)


def test_the_share_of_classes():
    example = load("10_gates_by_class")
    labels = np.repeat(np.arange(4), 50)
    by_class = np.stack([labels * 0.1, labels * -0.2], axis=1)
    share = example["share_of_classes"]
    assert share(by_class, labels) == pytest.approx(1)
    assert share(by_class, np.random.default_rng(0).permutation(labels)) < 0.05
    noisy = by_class + np.tile([[-0.3], [0.3]], (100, 1))  # variance of labels: 1.25
    assert share(noisy, labels) == pytest.approx(0.05 * 1.25 / (0.05 * 1.25 + 2 * 0.09))


def test_a_trend_is_seen_only_beyond_its_interval():
    trend = load("10_gates_by_class")["trend"]
    rising = np.array([[0.1, 0.1, 0.3, 0.5], [0.1, 0.1, 0.3, 0.6], [0.1, 0.1, 0.3, 0.7]])
    assert "the class more is seen here" in trend(rising)
    assert "the class more is not seen here" in trend(rising[:, ::-1])
    assert "the class more is not seen here" in trend(rising[:1])


def test_saturation_is_that_of_most_gates_at_the_end():
    example, site = load("10_gates_by_class"), Site("se_1", 8, 1, "sigmoid", "", "")
    statistics, near = example["gate_statistics"], np.full((9, 8), 0.999)
    half = np.full((9, 8), 0.5)
    at_the_end = [[statistics(site, gates) for gates in (half, near, half)]]
    early = [[statistics(site, gates) for gates in (near, half, half)]]
    said = example["saturation"]
    assert "1.000 at most: that the last gates saturate is seen" in said(at_the_end)
    assert "0.000 at most: that the last gates saturate is not seen" in said(early)


def test_paired_differences():
    import paired

    scores, others = [0.9, 0.8, 0.95, 0.7], [0.85, 0.82, 0.9, 0.6]
    interval = stats.ttest_rel(scores, others).confidence_interval(0.95)
    mean, low, high = paired.difference(scores, others)
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert mean == pytest.approx(0.045)
    wider = paired.difference(scores, others, overlap=0.25)
    assert wider[2] - mean == pytest.approx((high - mean) * np.sqrt(2))  # 1/4 becomes 1/4 + 1/4
    assert paired.difference([1.0], [0.5]) == (0.5, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("shift", "words"), [(0.2, "SE helps."), (-0.2, "SE harms."), (0, "SE is not shown to help.")]
)
def test_what_an_interval_shows(shift, words):
    import paired

    others = np.array([0.5, 0.6, 0.7])
    scores = others + shift + [-0.01, 0.0, 0.01]
    assert paired.sentence("SE", scores, others).endswith(f"3 pairs). {words}")


def test_files_of_fashion_mnist(folder):
    import real_data

    for part, some in (("train", slice(7)), ("t10k", slice(7, 12))):
        for kind, array in (
            ("images-idx3", DIGITS.images[some]),
            ("labels-idx1", DIGITS.target[some]),
        ):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = gzip.compress(head + array.astype("u1").tobytes())
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)
    (x, y), (x_test, y_test) = real_data.images(str(folder))
    np.testing.assert_array_equal(x, DIGITS.images[:7, ..., None])
    np.testing.assert_array_equal(x_test, DIGITS.images[7:12, ..., None])
    np.testing.assert_array_equal(np.concatenate([y, y_test]), DIGITS.target[:12])


def test_sequences_are_padded_and_found_in_the_package(folder, monkeypatch):
    import real_data

    inside = folder / "aeon/datasets/data/JapaneseVowels"
    inside.mkdir(parents=True)
    (folder / "aeon/__init__.py").write_text("raise AssertionError('it is not to be imported')")
    (inside / "A_TRAIN.ts").write_text("@classLabel true x y\n@data\n1,2,3:4,5,6:y\n7:8:x\n")
    (inside / "A_TEST.ts").write_text("@data\n9,10:11,12:y\n")
    (inside / "A_eq_TEST.ts").write_text("@data\n")
    monkeypatch.syspath_prepend(folder)
    (x, y), (x_test, y_test) = real_data.sequences(None)
    np.testing.assert_array_equal(x, [[[1, 4], [2, 5], [3, 6]], [[7, 8], [0, 0], [0, 0]]])
    np.testing.assert_array_equal(x_test, [[[9, 11], [10, 12], [0, 0]]])
    np.testing.assert_array_equal(np.concatenate([y, y_test]), [1, 0, 1])


def test_some_graphs_of_a_union(folder):
    import real_data

    union = real_data.graphs(graphs(folder, number=5))
    chosen = np.array([1, 4])
    taken = union.take(chosen)
    for new, old in enumerate(chosen):
        nodes, first = taken.nodes[taken.graph == new], np.flatnonzero(taken.graph == new)[0]
        np.testing.assert_array_equal(nodes, union.nodes[union.graph == old])
        edges = taken.edges[taken.graph[taken.edges[:, 0]] == new] - first
        of_old = union.edges[union.graph[union.edges[:, 0]] == old]
        np.testing.assert_array_equal(edges, of_old - np.flatnonzero(union.graph == old)[0])
    np.testing.assert_array_equal(taken.labels, union.labels[chosen])


@pytest.mark.parametrize(
    ("reader", "how"),
    [
        ("images", "apt install dataset-fashion-mnist"),
        ("sequences", "pip install --no-deps aeon"),
        ("graphs", "pip install --no-deps grakel"),
    ],
)
def test_data_that_are_not_there(reader, how, monkeypatch):
    import real_data

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(real_data, "_FASHION_MNIST", "nowhere")
    with pytest.raises(SystemExit, match=f"must be installed .*{how}.* Received: no --data"):
        getattr(real_data, reader)(None)


def test_a_folder_without_the_files(folder):
    import real_data

    with pytest.raises(SystemExit, match=r"must hold one file \*_A.txt. Received: .* with \[\]"):
        real_data.graphs(str(folder))


def test_images_without_a_test_part(folder):
    import real_data

    np.savez(folder / "x.npz", x=DIGITS.images, y=DIGITS.target)
    with pytest.raises(SystemExit, match=r"need x_train, .* and y_test\. Received"):
        real_data.images(str(folder / "x.npz"))
