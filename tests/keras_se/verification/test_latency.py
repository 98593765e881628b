import time

import keras
import numpy as np
import pytest

from keras_se import to_tflite
from keras_se.errors import InputError
from keras_se.verification.latency import latency


def test_quartiles_are_those_of_the_inferences(converted, images, monkeypatch):
    clock = iter(np.cumsum([0.0, *([9.0, 0.0] * 10), *np.ravel([(n, 0.0) for n in range(1, 61)])]))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = latency(converted("sigmoid", "int8"), images, runs=60)
    # 1 to 60 seconds; the ten of 9 seconds warm up.
    expected = [1000.0 * np.percentile(np.arange(1, 61), q) for q in (50, 25, 75)]
    assert [found.median, found.low, found.high] == pytest.approx(expected)


def test_real_time_of_a_larger_map_is_longer(converted, images):
    layers = [keras.Input((64, 64, 8)), *(keras.layers.Conv2D(32, 3) for _ in range(2))]
    model = keras.Sequential(layers)
    large = latency(to_tflite(model, "float32"), np.ones((1, 64, 64, 8)))
    small = latency(converted("sigmoid", "float32"), images[:1])
    assert 0.0 < small.low <= small.median <= small.high
    assert large.low > 2.0 * small.high


def test_too_few_runs_and_wrong_inputs_are_refused(converted, images):
    with pytest.raises(InputError, match=r"at least 50 runs\. Received: runs=49"):
        latency(converted("sigmoid", "int8"), images, runs=49)
    with pytest.raises(InputError, match=r"x must have the shape \(samples, 8, 8, 3\)"):
        latency(converted("sigmoid", "int8"), images[:, :4])
