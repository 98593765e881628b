"""What the inputs of files cannot hold, against a count over the samples."""

import warnings

import pytest
import tensorflow as tf

from keras_se import to_tflite, verify
from keras_se.litert.clipping import clipped_inputs
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.litert.runtime import Runner


def clipped(tflite, images):
    inputs = {name: details["index"] for name, details in Runner(tflite).inputs.items()}
    return clipped_inputs(TFLiteModel.of(tflite), inputs, dict.fromkeys(inputs, images))


def converted(converter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TensorFlow's, on ranges of inputs
        return converter.convert()


@pytest.fixture(scope="module")
def dark(networks, images):
    """Files of dark images, with codes as inputs and with floats that become codes."""
    model, calibration = networks["sigmoid"], 0.3 * images[:150]
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    return {
        "int8": to_tflite(model, "int8", calibration, check_range=False),
        "float": converted(converter),
    }


@pytest.mark.filterwarnings("ignore:The file should compute")
@pytest.mark.parametrize("kind", ["int8", "float"])
def test_values_above_the_calibration_are_clipped(dark, networks, images, kind):
    held_out = images[150:]
    (found,) = clipped(dark[kind], held_out).values()
    limit = 0.3 * images[:150].max()
    assert found.low == pytest.approx(0.0, abs=1e-6)
    assert found.high == pytest.approx(limit, rel=0.01)
    assert found.share == pytest.approx((held_out > found.high * (1 + 0.5 / 255)).mean())
    assert (found.least, found.greatest) == (held_out.min(), held_out.max())
    assert clipped(dark[kind], 0.2 * images) == {}
    report = verify(networks["sigmoid"], dark[kind], held_out)
    assert report.clipped == {next(iter(report.clipped)): found}
    text = " ".join(str(report).split())
    assert f"takes inputs from 0 to {found.high:.4g}; these samples reach from" in text
    assert f"{found.share:.1%} of their values are clipped" in text


def test_floats_are_not_clipped(networks, images):
    assert clipped(to_tflite(networks["sigmoid"], "float32"), 255 * images) == {}


def test_samples_on_another_scale_are_named_and_the_table_holds(networks, images):
    tflite = to_tflite(networks["sigmoid"], "int8", images[:150])
    text = str(verify(networks["sigmoid"], tflite, 255 * images[150:]))
    assert "of their values are clipped" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "<-99" in text
