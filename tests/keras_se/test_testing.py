"""The assertion for other people's test suites."""

import numpy as np
import pytest
from sabotage import hold_gates

from keras_se import find_sites, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.testing import assert_gates_survive


def test_it_returns_the_report_or_raises_with_it(networks, images):
    model, x = networks["one_plus_tanh"], images[:64]
    report = assert_gates_survive(model, to_tflite(model, "float32"), x, strict=True)
    assert report.passed
    assert report.strict
    gates = read_gates(model, images)
    means = {site.layer: gates[site.name].mean(axis=0) for site in find_sites(model)}
    frozen = to_tflite(hold_gates(model, means), "float32")
    with pytest.raises(AssertionError) as caught:
        assert_gates_survive(to_tflite(model, "float32"), frozen, x)
    assert str(caught.value).startswith("Do not ship: gates are lost at se_1 and se_2")
    assert "se_1 is lost: R² of" in str(caught.value)
    with pytest.raises(InputError, match="at least 32 held-out samples"):
        assert_gates_survive(model, frozen, np.ones((3, 8, 8, 3)))
