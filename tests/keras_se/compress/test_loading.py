"""Compressed models are saved, load in a fresh process, and are all that they were."""

import functools
import json
import os
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

import keras_se
from keras_se import SEBlock, compress
from keras_se.compress import cluster, load, prune, strip
from keras_se.errors import InputError
from keras_se.files import load_model

quantize_aware = functools.partial(compress.quantize_aware, engine="tfmot")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 3)).astype("float32")
Y = np.arange(64) % 3


@keras.saving.register_keras_serializable(package="test_loading")
class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="test_loading")
def own_function(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


def build(nested=False):
    """Normalization, a block that is called twice, inline SE, and a nested model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    normalization = layers.Normalization()
    normalization.adapt(X)
    x = layers.Conv2D(8, 3, padding="same")(normalization(inputs))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    block = SEBlock(2, bias_initializer="ones")
    x = block(layers.Add()([block(x), x]))
    hidden = layers.Dense(4, activation="relu", bias_initializer="ones")
    gates = layers.Dense(8, activation="sigmoid")(
        hidden(layers.GlobalAveragePooling2D(keepdims=True)(x))
    )
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, gates]))
    model = keras.Model(inputs, layers.Dense(3, name="scores")(x))
    if nested:
        outer = keras.Input((6, 6, 3))
        model = keras.Model(outer, model(outer))
    return model


def fit(model, epochs=1, optimizer="adam", loss=LOSS, **settings):
    if getattr(model, "optimizer", None) is None:
        model.compile(optimizer, loss, run_eagerly=True)  # few steps: tracing would take longer
    model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, **settings)
    return model


@pytest.fixture(scope="module")
def plain():
    return build()


@pytest.fixture(scope="module")
def sparse(plain):
    return strip(fit(prune(plain, 0.5)))


WAYS = {
    "prune": lambda plain, sparse: prune(
        build(nested=True), 0.5, "polynomial", end_step=9, frequency=2
    ),
    "cluster": lambda plain, sparse: cluster(sparse, 4, preserve_sparsity=True),
    "quantized": lambda plain, sparse: quantize_aware(
        strip(cluster(sparse, 4, preserve_sparsity=True)), X, preserve="both"
    ),
    "keras": lambda plain, sparse: quantize_aware(plain, X, engine="keras"),
}
QUANTIZED = ("quantized", "keras")

CHILD = """
import sys, pathlib, keras, numpy as np, keras_se
from keras_se.compress import load, strip
folder = pathlib.Path(sys.argv[1])
data = np.load(folder / "data.npz")
found = {}
for path in sorted(folder.glob("*.keras")):
    name, model = path.stem, load(path)
    found[f"{name}/outputs"] = model.predict(data["x"], verbose=0)
    found |= {f"{name}/{k}": v for k, v in keras_se.read_gates(model, data["x"]).items()}
    found[f"{name}/stripped"] = strip(model).predict(data["x"], verbose=0)
    if name in sys.argv[2].split(","):
        found[f"{name}/file"] = np.frombuffer(keras_se.to_tflite(model), "uint8")
    model.fit(data["x"], data["y"], epochs=2, shuffle=False, verbose=0)
    found |= {f"{name}/w{n}": w for n, w in enumerate(strip(model).get_weights())}
np.savez(folder / "found.npz", **found)
"""


@pytest.fixture(scope="module")
def restored(plain, sparse, tmp_path_factory):
    """What a fresh process makes of the files of all ways, and the models that were saved."""
    folder = tmp_path_factory.mktemp("saved")
    np.savez(folder / "data.npz", x=X, y=Y)
    models = {name: fit(make(plain, sparse)) for name, make in WAYS.items()}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), ",".join(QUANTIZED)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return models, dict(np.load(folder / "found.npz")), folder


@pytest.mark.parametrize("name", WAYS)
def test_a_fresh_process_goes_on_where_this_one_stopped(restored, plain, name):
    models, found, _ = restored
    model = models[name]
    np.testing.assert_array_equal(found[f"{name}/outputs"], model.predict(X, verbose=0))
    gates = keras_se.read_gates(model, X)
    assert len(gates) == 3
    for site, values in gates.items():
        np.testing.assert_array_equal(found[f"{name}/{site}"], values)
    stripped = strip(model)
    np.testing.assert_array_equal(found[f"{name}/stripped"], stripped.predict(X, verbose=0))
    if name in QUANTIZED:
        tflite = keras_se.to_tflite(model)
        assert found[f"{name}/file"].tobytes() == tflite
    fit(model, 2)
    for n, weight in enumerate(strip(model).get_weights()):
        np.testing.assert_allclose(found[f"{name}/w{n}"], weight, atol=1e-6)


def test_a_loaded_model_is_verified_as_the_saved_one(restored, plain):
    model = load(restored[2] / "quantized.keras")
    tflite = keras_se.to_tflite(model)
    report = keras_se.verify(plain, tflite, X, trained=model)
    assert report.sites.keys() == {"se_1", "se_2", "se_3"}
    calibrated = keras_se.to_tflite(model, "int8", 9 * X)  # which set no range
    assert len(keras_se.read_gates(calibrated, X)) == 3


def test_tf_keras_loads_its_files_once_the_classes_are_registered(restored):
    model = tf_keras.models.load_model(restored[2] / "quantized.keras")
    assert keras_se.find_sites(model) == keras_se.find_sites(restored[0]["quantized"])


def test_dictionaries_of_outputs_and_two_inputs(tmp_path):
    keras.utils.set_random_seed(0)
    one, two = keras.Input((6, 6, 3), name="one"), keras.Input((6, 6, 3), name="two")
    x = SEBlock(1, bias_initializer="ones")(layers.Conv2D(4, 3)(layers.Add()([one, two])))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(2, name="b")(x)}
    model = keras.Model({"one": one, "two": two}, outputs)
    x = {"one": X, "two": X[::-1]}
    for make in (prune, cluster, lambda model: quantize_aware(model, x)):
        compressed = make(model)
        compressed.compile("adam", {"a": LOSS, "b": "mse"}, run_eagerly=True)
        compressed.fit(x, {"a": Y, "b": np.zeros((64, 2))}, verbose=0)
        compressed.save(tmp_path / "model.keras")
        loaded = load(tmp_path / "model.keras")
        found, wanted = (m.predict(x, verbose=0) for m in (loaded, compressed))
        assert found.keys() == {"a", "b"}
        np.testing.assert_array_equal(found["b"], wanted["b"])
        loaded.fit(x, {"a": Y, "b": np.zeros((64, 2))}, verbose=0)
        assert strip(loaded).output_names == model.output_names


@pytest.mark.parametrize("loss", [OwnLoss(), own_function])
def test_losses_of_ones_own_come_back(plain, tmp_path, loss):
    model = fit(prune(plain), loss=loss)
    model.save(tmp_path / "own.keras")
    loaded = load(tmp_path / "own.keras")
    wanted = float(np.square(loaded.predict(X, verbose=0)).mean())
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(wanted, rel=1e-4)


def test_checkpoints_of_both_libraries(plain, tmp_path):
    model = quantize_aware(plain, X)
    kinds = (keras.callbacks.ModelCheckpoint, tf_keras.callbacks.ModelCheckpoint)
    callbacks = [
        kind(str(tmp_path / f"{name}{n}{suffix}"), save_weights_only="weights" in suffix, **best)
        for n, kind in enumerate(kinds)
        for suffix in (".keras", ".weights.h5")
        for name, best in (("all", {}), ("best", {"save_best_only": True, "monitor": "loss"}))
    ]
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    fit(model, 2, callbacks=[*callbacks, stopping])
    for path in sorted(tmp_path.glob("all*")):
        other = load(path) if path.suffix == ".keras" else quantize_aware(plain, X)
        other.load_weights(path)
        np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("name", ["whole.h5", "folder"])
def test_other_formats_are_refused_before_the_first_epoch(plain, tmp_path, name):
    model = prune(plain)
    message = r"saved whole in a file NAME\.keras, which keras_se\.compress\.load opens"
    with pytest.raises(InputError, match=message):
        model.save(tmp_path / name)
    epochs = []
    seen = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    kind = keras.callbacks if "h5" in name else tf_keras.callbacks
    with pytest.raises(InputError, match=message):
        fit(model, callbacks=[kind.ModelCheckpoint(str(tmp_path / name)), seen])
    assert epochs == []


def test_a_lambda_is_refused_before_the_first_epoch(plain, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"losses and metrics with a name.*compiled with a lambda"):
        fit(prune(plain), loss=lambda y, p: p, callbacks=[checkpoint])
    own = keras.Sequential([plain, layers.Lambda(lambda x: 2.0 * x)])
    with pytest.raises(InputError, match=r"'sequential.*', with a lambda among its layers$"):
        fit(prune(own), callbacks=[checkpoint])


def test_an_exported_model_computes_the_same(plain, tmp_path):
    model = quantize_aware(plain, X)
    model.export(str(tmp_path / "exported"))
    layer = keras.layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")
    np.testing.assert_allclose(layer(X), model.predict(X, verbose=0), atol=1e-6)


KILLED = """
import os, signal, sys, keras, numpy as np, tf_keras
from keras_se.compress import prune, quantize_aware
folder, is_killed = sys.argv[1], sys.argv[2] == "yes"
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
y = np.arange(64) % 3
def plain():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])
ways = {
    "prune": (keras, lambda: prune(plain(), 0.5, "polynomial", end_step=7, frequency=1)),
    "tfmot": (tf_keras, lambda: quantize_aware(plain(), x, engine="tfmot")),
}
def trained(make, *callbacks, ends=False):
    epochs, model = [], make()
    def begin(epoch, logs):
        epochs.append(epoch)
        if ends and epoch == 2:
            raise KeyboardInterrupt
    seen = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    try:
        model.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=[*callbacks, seen])
    except KeyboardInterrupt:
        return
    print(*epochs)
    return [weight.numpy() for weight in model.weights]
backups = {
    name: library.callbacks.BackupAndRestore(f"{folder}/{name}")
    for name, (library, _) in ways.items()
}
if is_killed:
    for name, (_, make) in ways.items():
        trained(make, backups[name], ends=True)
    os.kill(os.getpid(), signal.SIGKILL)
for name, (_, make) in ways.items():
    for one, other in zip(trained(make, backups[name]), trained(make), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
"""


def test_killed_trainings_go_on_to_the_same_weights(tmp_path):
    def run(killed):
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), killed]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("yes").returncode == -signal.SIGKILL
    process = run("no")
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines() == ["2 3", "0 1 2 3"] * 2


def test_a_subclass_of_the_backup_is_refused(plain, tmp_path):
    class Own(keras.callbacks.BackupAndRestore):
        pass

    with pytest.raises(InputError, match=r"supports BackupAndRestore .* Received: Own, a subclass"):
        fit(prune(plain), callbacks=[Own(tmp_path)])


def test_what_is_no_file_of_a_compressed_model(plain, restored, tmp_path):
    plain.save(tmp_path / "plain.keras")
    with pytest.raises(
        InputError, match=r"keras\.saving\.load_model loads any other.*a plain model"
    ):
        load(tmp_path / "plain.keras")
    with pytest.raises(InputError, match=r"must be an existing \.keras file"):
        load(tmp_path / "missing.keras")
    (tmp_path / "bytes.keras").write_bytes(b"bytes")
    with pytest.raises(InputError, match=r"a zip archive that model\.save wrote"):
        load(tmp_path / "bytes.keras")
    for content, message in {
        b"{": "config.json that can be read",
        b"[]": "its config.json is no object",
        b" " * (2**26 + 1): "its config.json has more than 64 MiB",
        b"{}": "that Keras loads in safe mode",
        b'{"registered_name": "keras_se>CompressedModel"}': "tf_keras loads in safe mode",
    }.items():
        with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", content)
        with pytest.raises(InputError, match=message):
            load(tmp_path / "a.keras")
    with pytest.raises(InputError, match=r"keras_se\.compress\.load opens a compressed one"):
        load_model(str(restored[2] / "prune.keras"))


def test_nothing_that_a_file_names_is_imported(restored, tmp_path):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    with zipfile.ZipFile(restored[2] / "prune.keras") as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1] |= {"module": "trap", "registered_name": "Trap"}
    with zipfile.ZipFile(tmp_path / "trap.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(InputError, match=r"must be registered.*which names \['Trap'\]"):
        load(os.fspath(tmp_path / "trap.keras"))
