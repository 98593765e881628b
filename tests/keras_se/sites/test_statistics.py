import json

import numpy as np
import pytest

from keras_se.sites.site import Site
from keras_se.sites.statistics import gate_statistics, to_json

SITE = Site("se_1", 3, 1, "sigmoid", "conv", "se")
GATES = np.array([[0.1, 0.4, 0.995], [0.1, 0.8, 0.999], [0.1, 0.6, 0.5]])
LABELS = np.array([0, 1, 0])


def test_figures():
    figures = gate_statistics(SITE, GATES)
    assert figures.mean == pytest.approx(GATES.mean())
    assert figures.spread == pytest.approx(np.sqrt((GATES.std(axis=0) ** 2).mean()))
    assert (figures.suppressed, figures.channels) == (1, 3)
    assert figures.saturated == pytest.approx(2 / 9)
    assert figures.between_classes is None
    np.testing.assert_allclose(figures.channel_means, GATES.mean(axis=0))
    np.testing.assert_allclose(figures.channel_spreads, GATES.std(axis=0))
    assert figures.by_class == {}


def test_by_class():
    figures = gate_statistics(SITE, GATES, LABELS)
    np.testing.assert_allclose(figures.by_class[0], GATES[[0, 2]].mean(axis=0))
    np.testing.assert_allclose(figures.by_class[1], GATES[1])
    means = np.stack([GATES[[0, 2]].mean(axis=0), GATES[1]])
    assert figures.between_classes == pytest.approx(np.sqrt(means.var(axis=0).mean()))


@pytest.mark.parametrize("gate", ["relu", "softmax", "unknown"])
def test_a_gate_without_upper_end_is_not_saturated(gate):
    assert gate_statistics(Site("se_1", 3, 1, gate, "", ""), GATES).saturated is None


def test_json():
    content = json.loads(to_json([gate_statistics(SITE, GATES, LABELS)]))
    assert content[0]["by_class"]["1"] == [0.1, 0.8, 0.999]
