"""What the compiler of an NPU, run on real files, makes of SE."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError, MissingExtraError
from keras_se.litert import npu
from keras_se.litert.devices.npu import ACCELERATORS
from keras_se.litert.graph.flatbuffer import packed, unpacked

SE = ("MEAN", "CONV_2D", "CONV_2D", "LOGISTIC", "MUL")


@pytest.fixture(scope="module")
def tflite():
    """Two sites: the squeeze of the first one is no operation of the NPU."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((14, 14, 3))
    for filters, squeeze in ((16, "std"), (64, "avg")):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = SEBlock(4, squeeze=squeeze, name=f"block_{squeeze}")(x)
        x = keras.layers.Activation("tanh")(x)  # the compiler fuses it with the product
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    samples = np.random.default_rng(0).random((100, 14, 14, 3))
    return to_tflite(keras.Model(inputs, x), "int8", samples)


@pytest.fixture(scope="module")
def report(tflite):
    return npu(tflite)


def test_the_cycles_are_those_of_the_compiler(tflite, report, tmp_path):
    """Its own table, read by the names of the tensors of the second site."""
    (tmp_path / "a.tflite").write_bytes(tflite)
    words = ("--accelerator-config", "ethos-u55-128", "--verbose-performance", "--output-dir")
    command = [sys.executable, "-m", "ethosu.vela", *words, tmp_path, tmp_path / "a.tflite"]
    subprocess.run(command, check=True, capture_output=True)
    lines = (tmp_path / "a_per-layer.csv").read_text().splitlines()[1:]
    rows = [(line.split(",")[-1], int(line.split(",")[5])) for line in lines]
    assert report.cycles == sum(cycles for _, cycles in rows)
    (summary,) = tmp_path.glob("*_summary_*")
    assert summary.read_text().splitlines()[1].split(",")[-1] == str(report.cycles)
    site = report.sites["se_2"]
    for part, last in ((site.squeeze, "Mean"), (site.excitation, "Sigmoid")):
        found = [cycles for name, cycles in rows if name.startswith(f"block_avg_1/{last}")]
        assert part >= sum(found) > 0
    assert site.squeeze > site.product > site.excitation > 0
    assert site.cycles == site.squeeze + site.excitation + site.product


def test_what_stays_on_the_cpu(report):
    assert report.sites["se_1"].on_cpu == report.on_cpu == ("SQRT",)
    assert report.sites["se_2"].on_cpu == ()
    assert report.sites["se_2"].operators == SE
    assert report.unplaced == 0
    assert report.cost == (1, report.cycles)


@pytest.mark.parametrize("accelerator", ["ethos-u65-256", "ethos-u85-256"])
def test_other_accelerators(tflite, report, accelerator):
    found = npu(tflite, accelerator)
    assert (found.unplaced, found.on_cpu) == (0, ("SQRT",))
    assert 0 < found.cycles < report.cycles
    assert all(min(s.squeeze, s.excitation, s.product) > 0 for s in found.sites.values())


def test_the_report_as_text_and_json(report):
    lines = str(report).splitlines()
    assert " ".join(lines[:2]).startswith(
        "The CPU keeps 1 of SE's 14 operators; on the NPU it takes "
    )
    assert max(map(len, lines)) <= 80
    assert f"Of {report.operators} operators 1 stay on the CPU: SQRT 1." in lines
    (row,) = (line.split() for line in lines if line.startswith(" se_2"))
    site = report.sites["se_2"]
    assert row[1:3] == [f"{site.squeeze:,}", f"({site.squeeze / report.cycles:.1%})"]
    assert row[-2:] == [f"{site.cycles / report.cycles:.1%}", "none"]
    content = json.loads(report.to_json())
    assert (content["cycles"], content["sites"]["se_2"]["product"]) == (report.cycles, site.product)


def test_names_that_are_not_unique_are_counted_and_not_guessed(tflite, report):
    model = unpacked(tflite)
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"same"
    found = npu(packed(model))
    assert found.cycles == report.cycles
    assert found.unplaced > 20
    assert {site.cycles for site in found.sites.values()} == {0}
    assert f"no operator of the file: {found.unplaced}." in " ".join(str(found).split())


def test_refusals(tflite, networks, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^npu needs an int8 file: .* give \['FLOAT32'\]$"):
        npu(to_tflite(networks["sigmoid"], "float32"))
    with pytest.raises(InputError, match=r"^accelerator must be one of .*: 'ethos-u1'$"):
        npu(tflite, "ethos-u1")
    with pytest.raises(InputError, match=r"Received: it took more than 0.01 seconds$"):
        npu(tflite, seconds=0.01)
    model = unpacked(tflite)
    model.subgraphs[0].operators[0].inputs = [10**6, 0, 0]
    with pytest.raises(InputError):
        npu(packed(model))
    for script, said in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ended with signal 11"),
        ("print('x'); raise SystemExit('Error: no such thing')", "it says: Error: no such thing"),
        ("", "its tables are not as expected: ValueError"),
    ):
        (tmp_path / "ethosu").mkdir(exist_ok=True)
        (tmp_path / "ethosu" / "vela.py").write_text(script)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(InputError, match=f"the NPU, ethos-u-vela, takes: .*{said}"):
            npu(tflite)


def test_a_compiler_that_is_not_installed(tflite, monkeypatch):
    monkeypatch.setitem(sys.modules, "ethosu.vela", None)
    with pytest.raises(MissingExtraError, match=r"`ethosu`.*pip install 'keras-se\[npu\]'"):
        npu(tflite)


def test_the_accelerators_are_those_of_the_compiler():
    command = [sys.executable, "-m", "ethosu.vela", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = text.partition("--accelerator-config {")[2].partition("}")[0]
    assert set(listed.split(",")) == set(ACCELERATORS)
