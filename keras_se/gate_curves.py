"""The gates of a model by class, drawn as in the paper's figures."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.gate_statistics import GateStatistics

FORMATS = ("png", "svg", "pdf")
MAX_CLASSES = 10  # the colours of matplotlib's default cycle
_COLUMNS = 2


def draw_gate_curves(statistics: Sequence[GateStatistics], format: str = "svg") -> bytes:
    """A figure with one panel per site: the mean gate of each channel, a curve for each class.

    Args:
        statistics: One for each site, with labels. The first ten classes are drawn, and the mean
            of all classes.
        format: `"png"`, `"svg"` or `"pdf"`.

    Returns:
        The bytes of the image.

    Raises:
        InputError: If there are no labels, or the format is none of these.
        MissingExtraError: If matplotlib is not installed.

    Source: Hu et al., arXiv 1709.01507v4, section 7.2, figure "Sample activations".

    Example:
        >>> site = GateStatistics("se_1", "sigmoid", 2, 0.5, 0.1, 0, 0.0, 0.1, {3: (0.4, 0.6)})
        >>> draw_gate_curves([site])[:5]
        b'<?xml'
    """
    if format not in FORMATS:
        raise InputError(
            f"A figure is one of {list(FORMATS)}, by the end of its name. Received: {format!r}"
        )
    if not statistics or not all(site.by_class for site in statistics):
        raise InputError(
            "Curves by class need labels: y, y_test or y_train beside the inputs. "
            "Received: data without labels"
        )
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
    figure.savefig(image, format=format, metadata={"Date": None} if format == "svg" else None)
    return image.getvalue()


def _draw(panel: Any, site: GateStatistics) -> None:
    classes = sorted(site.by_class)
    channels = np.arange(site.channels)
    for label in classes[:MAX_CLASSES]:
        panel.plot(channels, site.by_class[label], linewidth=0.9, label=f"class {label}")
    mean = np.mean(list(site.by_class.values()), axis=0)
    name = f"mean of {len(classes)} classes"
    panel.plot(channels, mean, color="black", linewidth=1.6, linestyle="--", label=name)
    panel.set_title(f"{site.name}: {site.gate}", fontsize="medium")
    panel.set_xlabel("channel")
    panel.set_ylabel("mean gate")
    panel.margins(x=0.01)
