"""Recordings that are judged, and those that are refused."""

import json
import re

import numpy as np
import pytest

from keras_se import verify
from keras_se.errors import InputError
from keras_se.litert import probe, recorder
from keras_se.litert.devices.recording import read_recording
from keras_se.litert.graph.flatbuffer import packed, unpacked


@pytest.fixture(scope="module")
def tflite(files):
    return files["sigmoid", "int8"]


@pytest.fixture(scope="module")
def recorded(tflite, images):
    return recorder.record(probe(tflite), {"x": images[:40]})


def changed(recorded, **notes):
    """The recording with other notes."""
    found = json.loads(recorded["recorder"].item())
    return {**recorded, "recorder": np.array(json.dumps({**found, **notes}).encode())}


def test_verify_judges_gates_and_outputs_of_a_recording(
    networks, tflite, recorded, images, tmp_path
):
    y = images[:40].mean(axis=(1, 2, 3)) > 0.25
    there = {**recorded, "output_0": np.roll(recorded["output_0"], 1, axis=1)}
    np.savez(tmp_path / "device.npz", **there)
    here = verify(networks["sigmoid"], tflite, images[:40], y.astype(int))
    report = verify(
        networks["sigmoid"], tflite, images[:40], y.astype(int), gates=tmp_path / "device.npz"
    )
    assert report.sites["se_1"].r2 == here.sites["se_1"].r2
    # Its own outputs, and no run on this machine, give the accuracy.
    logits = (recorded["output_0"].argmax(axis=1) + 1) % 10
    assert report.outcome.file == (logits == y).mean()
    assert report.outcome.error > 10.0 * here.outcome.error
    assert report.runtime.startswith(f"gates and outputs recorded on {recorder.processor()}, with ")
    assert report.runtime.endswith(f", from {tmp_path / 'device.npz'}")
    assert "default kernels (0." in report.runtime


def test_gates_alone_say_nothing_of_the_outputs(networks, tflite, recorded, images):
    gates = {name: values for name, values in recorded.items() if name.startswith("gate")}
    report = verify(networks["sigmoid"], tflite, images[:40], gates=gates)
    assert report.outcome.file is None
    assert report.runtime == "gates recorded on a device, given as arrays"


def test_a_file_without_signatures(tflite, images):
    model = unpacked(tflite)
    model.signatureDefs = None
    found = read_recording(packed(model), recorder.record(probe(packed(model)), {"x": images[:4]}))
    expected = read_recording(tflite, recorder.record(probe(tflite), {"x": images[:4]}))
    for name, values in expected.gates.items():
        np.testing.assert_array_equal(found.gates[name], values)


def test_names_of_a_device_rule_no_terminal(tflite, recorded):
    named = changed(recorded, processor="\x1b[31mred" + "x" * 999)
    assert "\x1b" not in read_recording(tflite, named).origin
    assert len(read_recording(tflite, named).origin) < 500


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"recorder": np.array(b"[")},
            "must be what recorder.py writes. Received: JSOND",
        ),
        ({"recorder": np.array(b"[1]")}, "recorder.py writes. Received: TypeError"),
        ({"recorder": np.array(b"{}")}, "recorder.py writes. Received: KeyError: 'processor'"),
        ({"recorder": np.zeros(3)}, "recorder.py writes. Received: JSONDecodeError"),
        ({"latency": {"p50": "a", "p90": 1}}, "recorder.py writes. Received: TypeError"),
        ({"latency": {"p50": None, "p90": 1}}, "recorder.py writes. Received: TypeError"),
        ({"kernels": 3}, "Received: ValueError: values of other types"),
        ({"file": "0" * 64}, "must be made with the probe of this file: make it again"),
        ({"samples": "0" * 64}, "must be made on the samples in x, all of them in this order"),
        ({"output_0": np.zeros((39, 10), "int8")}, "'output_0' must have 40 samples of the shape "),
        ({"output_0": np.zeros((40, 9), "int8")}, "shape (10,). Received: shape (40, 9)"),
        ({"output_0": np.zeros((40, 10), "U1")}, "output_0 must be an array of numbers"),
        ({"output_0": np.full((40, 10), 200)}, "codes of int8, as the outputs of this file are"),
    ],
)
def test_refused(networks, tflite, recorded, images, change, sentence):
    arrays = {name: change[name] for name in change if name in recorded}
    notes = {name: change[name] for name in change if name not in recorded}
    source = {**(changed(recorded, **notes) if notes else recorded), **arrays}
    with pytest.raises(InputError, match=re.escape(sentence)):
        verify(networks["sigmoid"], tflite, images[:40], gates=source)
