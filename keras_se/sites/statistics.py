"""Summarizes the gates of a site over a data set, also by class."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.layers.gates import GATES
from keras_se.sites.site import Site

# Share of the range of a gate. Sigmoid and tanh reach its end only at infinity.
_NEAR = 0.01


@dataclass(frozen=True)
class GateStatistics:
    """The gates of one site over samples.

    Attributes:
        name: Name of the site; it and what follows to the width as of `Site`.
        kind: `"self"` or `"cross"`.
        squeeze: Name of the squeeze.
        form: `"two_matrices"` or `"one_matrix"`.
        gate: Name of the gate.
        channels: C.
        width: Number of units of the bottleneck.
        mean: Mean over samples and channels.
        spread: Standard deviation over samples, root mean square over channels.
        suppressed: Number of channels whose mean gate is below tau.
        saturated: Share of values within 1 % of the top of the gate's range; `None` without a top.
        between_classes: Standard deviation of class means, rms over channels; `None` if no labels.
        channel_means: By channel, the mean over samples.
        channel_spreads: By channel, the standard deviation over samples.
        by_class: By label, if any, the mean gate of each channel (arXiv 1709.01507v4, section 7.2).
    """

    name: str
    kind: str
    squeeze: str
    form: str
    gate: str
    channels: int
    width: int
    mean: float
    spread: float
    suppressed: int
    saturated: float | None
    between_classes: float | None
    channel_means: tuple[float, ...]
    channel_spreads: tuple[float, ...]
    by_class: Mapping[int, tuple[float, ...]]


def gate_statistics(
    site: Site, gates: np.ndarray, labels: np.ndarray | None = None, tau: float = 0.2
) -> GateStatistics:
    """Computes the statistics of (samples, channels) gates of a site."""
    facts = GATES.get(site.gate)  # `None` if the gate was not recognized
    saturated = None
    if facts is not None and np.isfinite(facts.high):
        saturated = float((gates >= facts.high - _NEAR * (facts.high - facts.low)).mean())
    names: Any = [] if labels is None else np.unique(labels)
    by_class = {int(n): gates[labels == n].mean(axis=0) for n in names}
    return GateStatistics(
        name=site.name,
        kind=site.kind,
        squeeze=site.squeeze,
        form=site.form,
        gate=site.gate,
        channels=gates.shape[1],
        width=site.width,
        mean=float(gates.mean()),
        spread=spread(gates),
        suppressed=int((gates.mean(axis=0) < tau).sum()),
        saturated=saturated,
        between_classes=spread(np.stack(list(by_class.values()))) if by_class else None,
        channel_means=tuple(map(float, gates.mean(axis=0))),
        channel_spreads=tuple(map(float, gates.std(axis=0))),
        by_class={n: tuple(map(float, means)) for n, means in by_class.items()},
    )


def to_json(statistics: list[GateStatistics], worth: Mapping[str, float] | None = None) -> str:
    """Returns the statistics of several sites as JSON text, with their worth where it is known."""
    known = {} if worth is None else worth
    sites = [{**dataclasses.asdict(each), "worth": known.get(each.name)} for each in statistics]
    return json.dumps(sites, indent=2) + "\n"


def spread(values: np.ndarray) -> float:
    """Returns the standard deviation over samples, root mean square over all other axes."""
    return float(np.sqrt(values.astype("float64").var(axis=0).mean()))
