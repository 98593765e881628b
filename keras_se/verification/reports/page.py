"""A verdict as a page of HTML."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_se.display.page import page
from keras_se.display.plots import FAINT, FIRST, SECOND, plot, svg
from keras_se.display.table import Column, Table, names
from keras_se.display.text import figure
from keras_se.verification.reports import text
from keras_se.verification.rule import CHANNEL_STEPS, MIN_CHANNEL_R2, NOTHING_TO_SURVIVE

if TYPE_CHECKING:
    from keras_se.verification.outcome import Interval
    from keras_se.verification.reports.gate_report import GateReport, SiteVerdict

_LOWEST = -0.25  # of the R² in plots: a channel with less is shown there
_STORIES = {
    "SE": "The excitation itself lost them: the layers before it still give it what it needs.",
    "trunk": "The layers before lost them: the float excitation, on the maps of the file, is as "
    "far off.",
    "training": "They were lost in training, before the conversion.",
    "unknown": "What lost them is not known, since the maps of the file are not.",
}


def verdict_page(
    report: "GateReport", file: str = "", tried: Table | None = None, notes: Sequence[str] = ()
) -> str:
    """Returns the page of a verdict, with the files among which its file was found, and notes.

    `file` is the name of the file, for one page in many tabs.
    """
    return page(
        "verification/page.html",
        title=f"{file}: gates of {report.reference}" if file else f"Gates of {report.reference}",
        report=report,
        tried=tried,
        notes=notes,
        tone=_tone(report),
        evidence=list(text.evidence(report)),
        advice=[*text.reasons(report), *text.advice(report, "python")],
        outputs=_outputs(report),
        sites=text.sites_table(report),
        sections={site.name: _section(report, site) for site in report.sites.values()},
        legend=list(text.legend(report)),
    )


def _tone(report: "GateReport") -> str:
    if report.verdict == NOTHING_TO_SURVIVE or (report.passed and report.outcome.is_worse):
        return "fair"
    return "good" if report.passed else "bad"


def _outputs(report: "GateReport") -> Table:
    """Returns the table of outputs."""
    found = report.outcome
    change = None
    if found.constant is not None and found.reference is not None and found.constant_interval:
        change = found.constant - found.reference
    values = (found.reference, found.file, found.constant)
    changes = (None, found.difference, change)
    intervals = (None, found.interval, found.constant_interval if change is not None else None)
    errors = (None, found.error, report.constant_error)
    return Table(
        "Outputs",
        (
            names("outputs", ("reference", "file", "reference, its gates constant")),
            Column(found.metric or "metric", [figure(value, ".4f") for value in values]),
            Column("change", [figure(value, "+.4f") for value in changes]),
            Column("95 % interval", [_interval(value) for value in intervals]),
            Column("off by", [figure(value, ".1%") for value in errors]),
        ),
    )


def _interval(interval: "Interval | None") -> str:
    return "-" if interval is None else text.interval_text(interval)


def _section(report: "GateReport", site: "SiteVerdict") -> dict[str, Any]:
    """Returns what the page says and draws of a site."""
    pairs = report.pairs.get(site.name, np.zeros((0, 2)))
    finite = pairs[np.isfinite(pairs).all(axis=1)]
    plots = list(_plots(site, finite)) if len(finite) else []
    return {"plots": plots, "shown": len(finite), "story": _STORIES.get(site.blame, "")}


def _plots(site: "SiteVerdict", pairs: np.ndarray) -> Iterator[str]:
    r2 = figure(site.r2, ".3f")
    with plot(3.8, 2.9) as axes:
        _draw_gates(axes, pairs, site.step)
        yield svg(
            axes,
            f"{site.name} gates",
            f"Shipped against float gates of {site.name}, with R² {r2}; a sound file lies on the "
            "diagonal.",
        )
    with plot(3.8, 2.9) as axes:
        _draw_channels(axes, site)
        yield svg(
            axes,
            f"{site.name} channels",
            f"R² of each channel of {site.name} against its spread in steps.",
        )


def _draw_gates(axes: Any, pairs: np.ndarray, step: float) -> None:
    low, high = float(pairs.min()), float(pairs.max())
    margin = max(0.03 * (high - low), step)
    ends = np.array([low - margin, high + margin])
    axes.fill_between(ends, ends - step, ends + step, color=FAINT, alpha=0.35, linewidth=0)
    axes.plot(ends, ends, color=FAINT, linewidth=0.8)
    axes.scatter(*pairs.T, s=7, color=FIRST, alpha=0.55, linewidth=0)
    axes.set(xlim=ends, ylim=ends, xlabel="float gate", ylabel="shipped gate")


def _draw_channels(axes: Any, site: "SiteVerdict") -> None:
    shown = [
        (max(spread, 1e-3), max(r2, _LOWEST))
        for spread, r2 in zip(site.channel_spread, site.channel_r2, strict=True)
        if r2 is not None
    ]
    if shown:
        is_good = np.array([r2 >= MIN_CHANNEL_R2 for _, r2 in shown])
        points = np.array(shown)
        axes.scatter(*points[is_good].T, s=9, color=FIRST, alpha=0.7, linewidth=0)
        axes.scatter(*points[~is_good].T, s=14, color=SECOND, marker="D", linewidth=0)
    axes.axhline(MIN_CHANNEL_R2, color=FAINT, linewidth=0.8)
    axes.axvline(CHANNEL_STEPS, color=FAINT, linewidth=0.8)
    axes.set(xscale="log", ylim=(_LOWEST - 0.05, 1.05), ylabel="R² of a channel")
    axes.set_xlabel("spread of a channel, in steps")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
