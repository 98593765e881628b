"""Plots inside of a page, as SVG that takes the colours and the font of the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any

from keras_se.errors import import_extra

# Colours that the page replaces by its own, which differ between light and dark.
INK, FIRST, SECOND, FAINT = "#010101", "#020202", "#030303", "#040404"
_OF_PAGE = {
    INK: "currentColor",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    FAINT: "var(--faint)",
}
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text, for search and for screen readers
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "legend.frameon": False,
}


@contextmanager
def plot(width: float, height: float) -> Iterator[Any]:
    """Yields the axes of a figure, with sizes in inches; draw on them, and call `svg` inside."""
    matplotlib: Any = import_extra("matplotlib", "plots")
    figures: Any = import_extra("matplotlib.figure", "plots")
    with matplotlib.rc_context(_SETTINGS):
        # Unlike pyplot, this needs no display and keeps no figure.
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots()


def svg(axes: Any, key: str, alternative: str) -> str:
    """Returns the figure of some axes as SVG; `key` must be unique in the page."""
    import matplotlib

    stream = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # A page has one set of names: the salt keeps those of two plots apart.
    with matplotlib.rc_context({"svg.hashsalt": key}):
        axes.figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for colour, own in _OF_PAGE.items():
        text = text.replace(colour, own)
    text = re.sub(r" font-family: [^;]+;", "", text)
    # Only names that are referred to, which are hashes: others would occur in each plot.
    text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text)
    label = f'<svg role="img" aria-label="{escape(alternative)}" '
    return text.replace("<svg ", label, 1)
