"""The figures of a compressed network against those that NumPy and gzip give by hand."""

import gzip
import json

import keras
import numpy as np
import pytest
from browser import tables
from sabotage import hold_gates

import keras_se
from keras_se import compression_report, find_sites, read_gates, to_tflite
from keras_se.compress import cluster, prune, quantize_aware, strip
from keras_se.errors import InputError
from keras_se.files import model_bytes
from keras_se.litert.runtime import predict

layers = keras.layers


@pytest.fixture(scope="module")
def labels(networks, images):
    """The classes that the network gives, and every tenth one another."""
    found = networks["sigmoid"].predict(images, verbose=0).argmax(axis=1)
    found[::10] = (found[::10] + 1) % 10
    return found


def trained(model, images, labels, epochs=2):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=True)  # few steps: no tracing
    model.fit(images[100:], labels[100:], epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def pruned(networks, images, labels):
    return trained(prune(networks["sigmoid"], 0.5, scope="trunk"), images, labels)


@pytest.fixture(scope="module")
def sparse(networks, pruned, images, labels):
    """The report on it."""
    return compression_report(networks["sigmoid"], pruned, images[:100], labels[:100])


def classes(outputs):
    return np.asarray(outputs).argmax(axis=1)


def kernels(model):
    return [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]


def test_accuracy_by_hand(networks, pruned, sparse, images, labels):
    model, plain = networks["sigmoid"], strip(pruned)
    x, y = images[:100], labels[:100]
    before = classes(model.predict(x, verbose=0)) == y
    after = classes(plain.predict(x, verbose=0)) == y
    in_file = classes(predict(to_tflite(plain, "float32"), x)) == y
    found = {name: stage.outcome for name, stage in sparse.stages.items()}
    assert found["original"].file == before.mean() == 0.9
    assert found["compressed"].file == after.mean() < 0.9
    assert found["file"].file == in_file.mean()
    assert found["file"].difference == pytest.approx(in_file.mean() - before.mean())
    # Agresti and Min: half a pair is added to each of four kinds.
    b, c, n = (in_file & ~before).sum() + 0.5, (before & ~in_file).sum() + 0.5, 102
    half = 1.96 * np.sqrt(b + c - (b - c) ** 2 / n) / n
    interval = ((b - c) / n - half, (b - c) / n + half)
    assert found["file"].interval == pytest.approx(interval)
    outputs = [each.predict(x, verbose=0) for each in (model, plain)]
    off = np.sqrt(((outputs[1] - outputs[0]) ** 2).mean() / outputs[0].var(axis=0).mean())
    assert found["compressed"].error == pytest.approx(off, rel=1e-4)


def test_zeros_are_counted_in_the_kernels_that_have_more_of_them(networks, pruned, sparse):
    new = kernels(strip(pruned))
    assert [k.zeros for k in sparse.kernels] == [int((k == 0).sum()) for k in new]
    assert [k.values for k in sparse.kernels] == [len(set(k.ravel().tolist())) for k in new]
    assert [k.zeros_before for k in sparse.kernels] == [0] * 7
    # Of two convolutions, two blocks with two matrices each, and the classifier.
    in_trunk = [new[n] for n in (0, 3, 6)]
    zeros, weights = sum((k == 0).sum() for k in in_trunk), sum(k.size for k in in_trunk)
    assert [k.weights for k in sparse.pruned] == [k.size for k in in_trunk]
    assert sparse.sparsity == zeros / weights == pytest.approx(0.5, abs=0.01)
    assert (sparse.technique, sparse.asked, sparse.clustered) == ("prune", 0.5, ())
    assert f"zeros: of {weights:,} weights in the 3 kernels" in str(sparse)


def test_sizes_by_gzip(networks, pruned, sparse, images):
    plain = strip(pruned)
    contents = {
        "original": to_tflite(networks["sigmoid"], "float32"),
        "file": to_tflite(plain, "float32"),
    }
    for name, content in contents.items():
        size = sparse.stages[name].tflite_size
        assert size.plain == pytest.approx(len(content), abs=32)  # the name of the model
        assert size.zipped == pytest.approx(len(gzip.compress(content)), rel=0.01)
    assert sparse.stages["compressed"].keras_size.plain == len(model_bytes(plain))
    assert sparse.stages["compressed"].tflite_size is None
    given = to_tflite(plain, "int8", images[100:])
    found = compression_report(networks["sigmoid"], plain, images[:100], tflite=given)
    assert found.stages["file"].tflite_size.plain == len(given)
    assert found.stages["file"].tflite_size.zipped == len(gzip.compress(given, 9))
    assert found.file == "given, int8"


def test_the_size_of_a_compiled_original_is_without_its_optimizer(networks, images):
    model = keras.models.clone_model(networks["sigmoid"])
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(images[:8], np.zeros((8, 10)), verbose=0)
    found = compression_report(model, model, images[:8]).stages["original"].keras_size
    assert found.plain < 0.7 * len(model_bytes(model))


def test_clusters_by_hand(networks, images, labels):
    model = networks["sigmoid"]
    few = trained(cluster(model, 8, scope="trunk"), images, labels, epochs=1)
    report = compression_report(model, few, images[:100], labels[:100])
    counts = [np.unique(kernel).size for kernel in kernels(strip(few))]
    assert [kernel.values for kernel in report.kernels] == counts
    assert [n for n, kernel in enumerate(report.kernels) if kernel in report.clustered] == [0, 3, 6]
    assert (report.technique, report.asked) == ("cluster", 8)
    words = " ".join(str(report).split())
    assert "3 of 7 kernels have fewer than before, 3 of them at most the 8 asked for." in words
    # Of a plain model nobody knows the technique, and what was asked.
    plain = compression_report(model, strip(few), images[:100], labels[:100])
    assert (plain.technique, plain.asked) == (None, None)
    assert plain.clustered == report.clustered
    assert plain.stages["file"] == report.stages["file"]


@pytest.mark.parametrize("engine", ["keras", "tfmot"])
def test_a_quantize_aware_model_is_shown_rounded_and_in_float(
    engine, networks, images, labels, tmp_path
):
    model, x, y = networks["sigmoid"], images[:100], labels[:100]
    aware = trained(quantize_aware(model, images[100:], engine=engine), images, labels)
    path = tmp_path / "aware.tflite"
    to_tflite(aware, path=path)
    report = compression_report(model, aware, x, y, tflite=path)
    assert report.technique == "quantize_aware"
    assert list(report.stages) == ["original", "compressed", "stripped", "file"]
    found = {name: stage.outcome.file for name, stage in report.stages.items()}
    assert found["compressed"] == (classes(aware(x, training=False)) == y).mean()
    assert found["stripped"] == (classes(strip(aware).predict(x, verbose=0)) == y).mean()
    assert found["file"] == (classes(predict(path, x)) == y).mean()
    verdict = keras_se.verify(model, path, x, y, trained=aware)
    assert report.gates == verdict
    assert report.lowest_r2 == min(site.r2 for site in verdict.sites.values())
    assert report.file == f"{path}, int8"
    assert report.next_step == ""
    # Without a file, the one that needs no calibration is made.
    made = compression_report(model, aware, x, y)
    assert made.stages["file"].outcome == report.stages["file"].outcome
    assert made.file == "int8, made for this table and not written"
    assert made.next_step == "keras_se.to_tflite(compressed, path='model.tflite')"


def test_a_model_that_was_not_trained_is_the_same(networks, images, labels):
    model = networks["sigmoid"]
    report = compression_report(model, prune(model, 0.0), images[:100], labels[:100])
    for stage in report.stages.values():
        assert stage.outcome.file == 0.9
        assert stage.outcome.difference == 0.0
        assert stage.outcome.error < 1e-5
    assert (report.sparsity, report.pruned) == (0.0, ())
    assert report.spread_kept == pytest.approx((1.0, 1.0), abs=1e-4)
    assert report.passed
    assert report.conclusion.startswith("Ship: the gates survive; accuracy 0.9000 after 0.9000")


def test_dead_gates_are_the_conclusion(networks, pruned, images, labels):
    plain = strip(pruned)
    gates = read_gates(plain, images)
    last = find_sites(plain)[1]
    dead = hold_gates(plain, {last.layer: gates[last.name].mean(axis=0)})
    report = compression_report(networks["sigmoid"], dead, images[:100], labels[:100])
    assert not report.passed
    assert report.spread_kept[0] < 0.01
    assert report.gates.sites["se_1"].verdict == "survives"
    expected = "Do not ship: gates are lost at se_2, of whose spread as little as 0% is left; "
    assert report.conclusion.startswith(expected)
    words = " ".join(str(report).split())
    assert "se_2 is lost: adaptivity lost in training" in words
    # What comes next is for files that pass.
    assert "Next: " not in str(report)
    assert "Next: keras_se.to_tflite(" in str(
        compression_report(networks["sigmoid"], networks["sigmoid"], images[:100])
    )


def test_what_to_do_is_said_in_the_terms_of_the_technique(networks, images, labels):
    model = networks["sigmoid"]
    bare = trained(prune(model, 0.97, scope="se"), images, labels, epochs=1)
    report = compression_report(model, bare, images[:100], labels[:100])
    assert not report.passed
    words = " ".join(str(report).split())
    assert "Or leave SE as it is, with scope='trunk', or prune to a lower sparsity." in words


def test_a_network_without_se_has_no_gates(images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    y = (images.mean(axis=(1, 2, 3)) > 0.25).astype("int64")
    aware = trained(quantize_aware(model, images[100:], engine="keras"), images, y)
    report = compression_report(model, aware, images[:100], y[:100])
    assert report.gates is None
    assert report.passed
    text = str(report)
    assert "The model has no SE sites, and no gates to judge." in text
    assert "lowest R²" not in text
    assert "spread kept" not in text
    assert json.loads(report.to_json())["gates"] is None


def test_samples_of_the_training_judge_no_gates(networks, pruned, images, labels):
    report = compression_report(
        networks["sigmoid"], pruned, images[100:], labels[100:], held_out=False
    )
    assert report.gates is None
    assert report.conclusion.startswith("Not judged, for want of held-out samples: accuracy ")
    text = str(report)
    assert "train accuracy" in text
    assert "On 200 training samples." in text
    assert "Gates were not judged: that needs held-out samples." in text


def test_few_samples_judge_no_gates(networks, images, labels):
    model = networks["sigmoid"]
    report = compression_report(model, model, images[:31], labels[:31])
    assert report.gates is None
    assert report.conclusion.startswith("Gates not judged: accuracy ")
    assert "Gates were not judged: that needs 32 samples or more." in report.notes


def test_without_labels_the_outputs_are_compared(networks, pruned, images):
    model, x = networks["sigmoid"], images[:100]
    report = compression_report(model, pruned, x)
    same = classes(model.predict(x, verbose=0)) == classes(strip(pruned).predict(x, verbose=0))
    found = report.stages["compressed"].outcome
    assert (found.metric, found.file, found.interval) == ("agreement", same.mean(), None)
    assert f"{same.mean():.1%} of the samples get the class of the original" in report.conclusion


def test_outputs_that_are_no_classes(images):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    other = keras.models.clone_model(model)
    other.set_weights([1.1 * weights for weights in model.get_weights()])
    report = compression_report(model, other, images[:40])
    assert report.stages["compressed"].outcome.file is None
    off = np.asarray(0.1 * model(images[:40]))
    spread = np.sqrt((off / 0.1).var(axis=0).mean())
    expected = np.sqrt((off**2).mean()) / spread
    assert report.stages["compressed"].outcome.error == pytest.approx(expected, rel=1e-3)
    assert f"Ship: outputs off by {expected:.1%} of their spread; " in report.conclusion
    assert "accuracy" not in str(report)


def test_a_model_without_a_file_is_no_error(images):
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.erfinv(0.5 * layers.Conv2D(4, 3, activation="tanh")(inputs))
    x = layers.GlobalAveragePooling2D()(keras_se.SEBlock(2)(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    report = compression_report(model, model, images[:40])
    assert list(report.stages) == ["original", "compressed"]
    assert report.sites == 1
    note = report.notes[0]
    assert note.startswith("There is no TFLite file to measure. compression_report supports ")
    assert report.stages["original"].tflite_size is None
    assert note[:40] in str(report)
    assert "Gates were not judged: that needs a TFLite file." in report.notes
    assert report.conclusion.startswith("Gates not judged: ")


def test_half_precision_and_open_sizes(half_network, images, labels, twins):
    few = trained(prune(half_network, 0.5, scope="trunk"), images, labels)
    report = compression_report(half_network, few, images[:100], labels[:100])
    assert report.stages["original"].outcome.file == 0.9
    assert report.gates is not None
    assert report.stages["file"].tflite_size is not None
    said = [str(warning.message).partition(" takes ")[0] for warning in twins]
    assert said == ["prune", "compression_report"]
    assert twins[-1].filename == __file__


def test_json_and_notebook(sparse):
    content = json.loads(sparse.to_json())
    assert content["schema"] == 1
    assert content["passed"] is sparse.passed
    assert content["conclusion"] == sparse.conclusion
    file = content["stages"]["file"]
    assert file["outcome"]["file"] == sparse.stages["file"].outcome.file
    assert file["outcome"]["interval"] == list(sparse.stages["file"].outcome.interval)
    assert file["tflite_size"]["zipped"] == sparse.stages["file"].tflite_size.zipped
    assert content["sparsity"] == sparse.sparsity
    assert content["spread_kept"] == list(sparse.spread_kept)
    assert content["gates"]["verdict"] == sparse.gates.verdict
    assert [kernel["zeros"] for kernel in content["kernels"]] == [k.zeros for k in sparse.kernels]
    (table,) = tables(sparse._repr_html_())
    stages = list(sparse.stages)
    assert table[0] == ["", *stages]
    assert ["zeros", "0.0%", f"{sparse.sparsity:.1%}", *[""] * (len(stages) - 2)] in table


def test_the_text_is_the_conclusion_and_a_table_of_80_columns(sparse):
    text = str(sparse)
    assert " ".join(text.split()).startswith(sparse.conclusion)
    table = text.partition("\nfile: ")[0].splitlines()
    rows = {line[:14].strip(): line[14:].split() for line in table}
    found = [stage.outcome.file for stage in sparse.stages.values()]
    assert rows["accuracy"] == [f"{value:.4f}" for value in found]
    zipped = [sparse.stages[name].tflite_size.zipped for name in ("original", "file")]
    assert f"{zipped[1] / 1000:.1f} kB zipped after {zipped[0] / 1000:.1f}" in sparse.conclusion
    assert rows["zeros"] == ["0.0%", f"{sparse.sparsity:.1%}"]
    assert rows["lowest R²"] == [f"{sparse.lowest_r2:.3f}"]
    low, high = sparse.spread_kept
    assert rows["spread kept"] == [f"{low:.2f}", "to", f"{high:.2f}"]
    # Only a command may be longer: what is wrapped cannot be copied.
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("Next: "))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(original=a["compressed"]), "needs the plain Keras model that was com"),
        (lambda a: a.update(compressed="out.keras"), "made of it. Received: str as compressed"),
        (lambda a: a.update(x=a["x"][:, :4]), r"x must have the shape \(samples, 8, 8, 3\)"),
        (lambda a: a.update(y=np.full(100, 10)), "y must hold classes .* the label 10 for an"),
        (lambda a: a.update(y={"scores": a["y"]}), r"the labels of the first.* \['scores'\]"),
        (lambda a: a.update(x={"x": a["x"]}), r"must hold the inputs \['inputs'\]\. .* \['x'\]"),
        (lambda a: a.update(y=a["y"][:3]), "same length, above 0. Received: 100 samples and 3 l"),
    ],
)
def test_errors(networks, pruned, images, labels, change, message):
    arguments = {"original": networks["sigmoid"], "compressed": pruned}
    arguments |= {"x": images[:100], "y": labels[:100]}
    change(arguments)
    with pytest.raises(InputError, match=message):
        compression_report(**arguments)


def test_an_input_goes_by_the_name_that_it_was_given():
    model = keras.Sequential([keras.Input((4,), name="age"), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    with pytest.raises(InputError, match=r"must hold the inputs \['age'\]\. Received: \['x'\]"):
        compression_report(model, model, {"x": x})


def test_models_that_do_not_belong_together(networks, images):
    other = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(InputError, match=r"outputs of the original. Received: outputs of shape"):
        compression_report(networks["sigmoid"], other, images[:40])


def test_weights_must_be_finite(networks, images):
    broken = keras.models.clone_model(networks["sigmoid"])
    broken.layers[1].bias.assign(np.full(8, np.nan))
    with pytest.raises(InputError, match=r"needs finite weights. Received: NaN"):
        compression_report(networks["sigmoid"], broken, images[:40])


def test_calibration_samples_judge_no_file(networks, images):
    model = networks["sigmoid"]
    tflite = to_tflite(model, "int8", images[100:])
    with pytest.raises(InputError, match="Received: 20 of 40 samples that are in its recipe"):
        compression_report(model, model, images[80:120], tflite=tflite)
