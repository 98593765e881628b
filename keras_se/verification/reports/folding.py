"""What `fold` returns: a model in which some SE sites are constants, and what that changed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras

from keras_se.display.shown import Shown
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part, figure
from keras_se.surgery.folding import How
from keras_se.verification.outcome import Outcome
from keras_se.verification.reports.text import interval_text

_LEGEND = "worth: share of SE's work that is lost if this site alone is constant."


@dataclass(frozen=True)
class FoldedSite:
    """What became of one SE site of the model.

    Attributes:
        channels: C.
        worth: Its share of SE's work, as `worth` has it; `None` where SE does no work.
        how: `"before"` or `"after"` if a layer before it or the layers after it took up the
            constants; `"multiplication"` if that is left; `"dropped"` if only sites that are
            constant read its product; `None` if the site stays.
        layers: The names of these layers of the new model.
        reason: Why the site stays; empty if it is constant.
    """

    channels: int
    worth: float | None
    how: How | None
    layers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Folding(Shown):
    """A model in which sites that do little are constants.

    Attributes:
        model: The new, uncompiled model.
        sites: By the name that it has in the old model, what became of each site.
        tolerance: The share of SE's work that was allowed to be lost.
        work_kept: Share of what SE does for the outputs of the old model that the new one does,
            too; `None` if SE does nothing for these samples.
        constant_error: The root mean square change of the outputs by constant gates at all sites,
            over their spread.
        outcome: The first outputs of old model and new, the new one as `Outcome.file`.
        samples: Number of samples.
    """

    derived: ClassVar[tuple[str, ...]] = ("conclusion", "folded")

    model: keras.Model = field(repr=False, compare=False)
    sites: Mapping[str, FoldedSite]
    tolerance: float
    work_kept: float | None
    constant_error: float
    outcome: Outcome
    samples: int

    @property
    def folded(self) -> tuple[str, ...]:
        """The names of the sites that are constants now."""
        return tuple(name for name, site in self.sites.items() if site.how is not None)

    @property
    def conclusion(self) -> str:
        """One sentence: how many sites are constants, and what is kept."""
        count = f"{len(self.folded)} of {len(self.sites)} SE sites"
        if not self.folded:
            return f"Nothing is folded: no site can go at a tolerance of {self.tolerance:g}."
        if self.work_kept is None:
            return f"{count} are constants now: SE does nothing for these samples."
        # Rounded up, a loss could look like none.
        kept = math.floor(1000.0 * max(self.work_kept, 0.0) + 1e-3) / 10.0
        return f"{count} are constants now: {kept:g}% of SE's work is kept."

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, what moved, the table of the sites, and why some stay."""
        yield self.conclusion
        yield from _evidence(self)
        yield _table(self)
        yield _LEGEND
        yield from _reasons(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for JSON; an infinite tolerance is `None`."""
        return {
            **super().to_dict(),
            "tolerance": None if math.isinf(self.tolerance) else self.tolerance,
        }


def _evidence(folding: Folding) -> Iterator[str]:
    outcome = folding.outcome
    if outcome.metric == "accuracy" and outcome.difference is not None and outcome.interval:
        change = f"{outcome.difference:+.4f}; 95 % {interval_text(outcome.interval)}"
        yield f"Accuracy: {outcome.reference:.4f} before, {outcome.file:.4f} after ({change})."
    elif outcome.file is not None:
        yield f"The class of the old model is given to {outcome.file:.1%} of the samples."
    error = "" if outcome.error is None else f"Outputs moved by {outcome.error:.1%}, and by "
    yield (
        f"{error or 'Outputs moved by '}{folding.constant_error:.1%} if all sites were constant "
        f"(root mean square over their spread, on {folding.samples} samples)."
    )


def _table(folding: Folding) -> Table:
    sites = folding.sites.values()
    return Table(
        "sites",
        (
            names("site", [*folding.sites]),
            Column("C", [str(site.channels) for site in sites]),
            Column("worth", [figure(site.worth, ".4f") for site in sites]),
            Column("now", [_now(site) for site in sites], is_words=True),
        ),
    )


def _now(site: FoldedSite) -> str:
    layers = ", ".join(site.layers)
    return {
        None: "SE",
        "before": f"constant, in {layers} before it",
        "after": f"constant, in {layers} after it",
        "multiplication": f"constant, the layer {layers}",
        "dropped": "gone: only constant sites read it",
    }[site.how]


def _reasons(folding: Folding) -> Iterator[str]:
    for name, site in folding.sites.items():
        if site.reason:
            yield f"{name} stays: {site.reason}."
