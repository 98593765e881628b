import dataclasses
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

from keras_se.errors import InputError, MissingExtraError
from keras_se.sites.curves import draw_gate_curves
from keras_se.sites.site import Site
from keras_se.sites.statistics import gate_statistics

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 12


def statistics(name, labels=LABELS):
    site = Site(name, 8, 2, "sigmoid", "conv", "se")
    return gate_statistics(site, RNG.random((60, 8)), labels)


def test_one_panel_per_site_and_one_curve_per_class():
    """Matplotlib draws each line as a path with a clip rectangle, and panels as groups axes_N."""
    svg = draw_gate_curves([statistics(f"se_{n}") for n in (1, 2, 3)])
    root = xml.etree.ElementTree.fromstring(svg)  # noqa: S314 (our own file)
    groups = {g.get("id"): g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("id")}
    panels = [g for name, g in groups.items() if name.startswith("axes_")]
    assert len(panels) == 3
    curves = [p for p in panels[0].iter("{http://www.w3.org/2000/svg}path") if p.get("clip-path")]
    assert len(curves) == 10 + 1  # the first ten of twelve classes, and their mean


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_formats(format, start):
    assert draw_gate_curves([statistics("se_1")], format).startswith(start)


def test_refusals(monkeypatch):
    with pytest.raises(InputError, match=r"one of \['png', .*\]\. Received: 'txt'"):
        draw_gate_curves([statistics("se_1")], "txt")
    with pytest.raises(InputError, match=r"need labels: .* Received: data without labels"):
        draw_gate_curves([statistics("se_1", None)])
    with pytest.raises(InputError, match="Received: data without labels"):
        draw_gate_curves([dataclasses.replace(statistics("se_1"), by_class={})])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'keras-se\[plots\]'"):
        draw_gate_curves([statistics("se_1")])
