"""Draws the gates of a model by class, as in arXiv 1709.01507v4, section 7.2."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.sites.statistics import GateStatistics

FORMATS = ("png", "svg", "pdf")
_MAX_CLASSES = 10  # matplotlib's default cycle has ten colours
_COLUMNS = 2


def draw_gate_curves(statistics: Sequence[GateStatistics], format: str = "svg") -> bytes:
    """Draws the mean gate of each channel by class, one panel per site."""
    if format not in FORMATS:
        raise InputError(
            f"The suffix of a figure must be one of {list(FORMATS)}. Received: {format!r}"
        )
    if not statistics or not all(site.by_class for site in statistics):
        raise InputError(
            "Curves by class need labels: y, y_test or y_train beside the inputs. "
            "Received: data without labels"
        )
    # Unlike pyplot, `matplotlib.figure` needs no display.
    figures: Any = import_extra("matplotlib.figure", "plots")
    rows = math.ceil(len(statistics) / _COLUMNS)
    figure = figures.Figure(figsize=(6 * _COLUMNS, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel, site in zip(panels, statistics, strict=False):
        _draw(panel, site)
    for panel in panels[len(statistics) :]:
        panel.remove()
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize="small")
    image = io.BytesIO()
    # SVG records the date by default, so equal figures would differ in bytes.
    figure.savefig(image, format=format, metadata={"Date": None} if format == "svg" else None)
    return image.getvalue()


def _draw(panel: Any, site: GateStatistics) -> None:
    classes = sorted(site.by_class)
    channels = np.arange(site.channels)
    for label in classes[:_MAX_CLASSES]:
        panel.plot(channels, site.by_class[label], linewidth=0.9, label=f"class {label}")
    mean = np.mean(list(site.by_class.values()), axis=0)
    name = f"mean of {len(classes)} classes"
    panel.plot(channels, mean, color="black", linewidth=1.6, linestyle="--", label=name)
    panel.set_title(f"{site.name}: {site.gate}", fontsize="medium")
    panel.set_xlabel("channel")
    panel.set_ylabel("mean gate")
    panel.margins(x=0.01)
