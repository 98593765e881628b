"""Turns SE sites that do little for the outputs into constants."""

import math
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_se.display.progress import counted, step, with_progress
from keras_se.errors import InputError, PrecisionWarning
from keras_se.graph.compressed import check_plain
from keras_se.graph.models import check_weights
from keras_se.graph.trace import trace
from keras_se.sites.gated import search
from keras_se.surgery.folding import Constant, why_kept, with_constants
from keras_se.verification.keras_reference import KerasReference
from keras_se.verification.outcome import class_labels, outcome
from keras_se.verification.reference import Gates
from keras_se.verification.reports.folding import FoldedSite, Folding
from keras_se.verification.verdict import MIN_SAMPLES
from keras_se.verification.work import LEAST, Distance, constant_gates, shares_of_work

_PURPOSE = "fold"
_TINY = 1e-30  # constant gates may change nothing at all
_ROUNDING = 1e-3  # of the spread of the outputs; a fault moves them by far more


@with_progress
def fold(
    model: keras.Model,
    x: Any,
    sites: Collection[str] | None = None,
    tolerance: float = 0.01,
    *,
    y: Any = None,
    input_shape: Sequence[int] | None = None,
    progress: bool = True,
) -> Folding:
    """Turns SE sites that do little for the outputs into constants that other layers take up.

    Squeeze and excitation of such a site are dropped, and each channel is multiplied by its mean
    gate over the samples. A convolution, dense layer or normalization before the site takes that
    up into its weights, or those after it do; a `Rescaling` is left where none can. Sites are taken
    by their worth, the least one first, as long as the work kept is at least 1 - tolerance.

    Args:
        model: A built functional or Sequential model. It is not changed. SE of any spelling is
            folded, also in nested models and in layers of your own.
        x: Inputs, shape (samples, *input shape), or a list or dictionary of them: 32 samples or
            more that stand for the use of the network, such as training data.
        sites: Names of the sites that may be folded. Default: all.
        tolerance: The share of SE's work in the outputs that may be lost, as `verify` measures it:
            by 0 gates, by 1 as much as by constant gates at all sites. `math.inf` folds all sites.
        y: Labels of `x`, for the accuracy before and after.
        input_shape: Shape of one sample, for a model that leaves sizes open.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        A `Folding`: `.model` is the new, uncompiled model; `print` shows what became of each site.
        All else of the model, and its names, policies and other weights, are as before.

    Raises:
        InputError: If the model has no SE site, is compressed, cannot be rebuilt, or does not fit
            the data.

    Warns:
        PrecisionWarning: If the model computes in half precision: the sites are judged in float32.
        SiteWarning: If a part of the model may be SE, and is not seen as such.

    Example:
        >>> from keras_se import SEBlock
        >>> conv = keras.layers.Conv2D(8, 3)
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv, SEBlock(2)])
        >>> folding = fold(model, np.random.default_rng(0).random((32, 8, 8, 1)), tolerance=1.0)
        >>> [layer.__class__.__name__ for layer in folding.model.layers], folding.sites["se_1"].how
        (['Conv2D'], 'before')
    """
    check_plain(model, _PURPOSE)
    if not tolerance >= 0.0:  # also refuses NaN
        raise InputError(f"tolerance must be at least 0. Received: tolerance={tolerance!r}")
    return _Fold(model, x, input_shape).by(sites, tolerance, y)


class _Fold:
    """The effects of constant gates in a model, and the choice of sites by them."""

    def __init__(self, model: keras.Model, x: Any, input_shape: Sequence[int] | None) -> None:
        self._model, self._input_shape = model, input_shape
        self._graph = trace(model, _PURPOSE)
        self._found = search(self._graph)
        if not self._found.warned():
            raise InputError(
                "fold needs a model with SE sites. "
                f"Received: model {model.name!r}, which has none that can be seen"
            )
        check_weights(_PURPOSE, model)
        self._reference = KerasReference(model, _PURPOSE, input_shape)
        self._samples = self._reference.samples(x, "x")
        count = len(next(iter(self._samples.values())))
        if count < MIN_SAMPLES:
            raise InputError(
                f"fold needs {MIN_SAMPLES} samples or more, to know the mean gates. "
                f"Received: {count}"
            )
        self._count = count
        self._own, self._outputs = self._reference.read(self._samples)
        self._constants = constant_gates(self._own)
        with step("outputs with constant gates"):
            self._steady = self._reference.outputs(self._samples, self._constants)
        known = [*self._outputs, *self._steady, *self._own.values()]
        if not all(np.isfinite(values).all() for values in known):
            raise InputError(
                f"fold needs gates and outputs that are finite. Received: model {model.name!r}, "
                "which gives NaN or infinity for x"
            )
        self._distance = Distance.of(self._outputs, self._steady)

    def by(self, sites: Collection[str] | None, tolerance: float, y: Any) -> Folding:
        """Folds sites within a tolerance."""
        labels = None
        if y is not None:
            labels = class_labels(_PURPOSE, self._reference.output_shape, y, self._count)
        reasons = why_kept(self._found)
        reasons = {**self._not_asked(sites), **reasons}
        worth = shares_of_work(self._reference, self._samples, self._own, self._outputs)
        chosen = self._chosen(worth, [n for n in self._own if n not in reasons], tolerance)
        model, became = self._folded(chosen)
        outputs = self._checked(model, chosen) if chosen else self._outputs
        return Folding(
            model=model,
            sites=self._sites(worth, became, reasons, tolerance),
            tolerance=tolerance,
            work_kept=1.0 - self._lost(outputs) if self._works else None,
            constant_error=self._distance.error(self._steady),
            outcome=outcome(self._outputs, outputs, self._steady[0], labels),
            samples=self._count,
        )

    @property
    def _works(self) -> bool:
        """Whether SE does anything for these samples."""
        return self._distance.error(self._steady) >= LEAST

    def _lost(self, outputs: Sequence[np.ndarray]) -> float:
        """The share of SE's work that some outputs lack."""
        return self._distance(outputs) / max(self._distance(self._steady), _TINY)

    def _with(self, names: Collection[str]) -> list[np.ndarray]:
        """The outputs with constant gates at some sites; the others react to it."""
        gates: Gates = {name: self._constants[name] for name in names}
        return self._reference.outputs(self._samples, gates)

    def _not_asked(self, sites: Collection[str] | None) -> dict[str, str]:
        names = [sites] if isinstance(sites, str) else sites
        if names is None:
            return {}
        unknown = sorted(set(names) - set(self._own))
        if unknown:
            raise InputError(f"sites must be of {list(self._own)}. Received: {unknown}")
        return {name: "it was not asked for" for name in self._own if name not in names}

    def _chosen(self, worth: dict[str, float], names: list[str], tolerance: float) -> list[str]:
        if math.isinf(tolerance) or (tolerance > 0.0 and not self._works):
            return names
        # A site that does more than the tolerance by itself will not do less beside others.
        shares = {name: worth.get(name, 0.0) for name in names}
        names = sorted((n for n in names if shares[n] <= tolerance), key=shares.__getitem__)
        chosen: list[str] = []
        for name in counted(names, len(names), "sites to fold"):
            if self._lost(self._with([*chosen, name])) <= tolerance:
                chosen.append(name)
        return chosen

    def _folded(self, chosen: list[str]) -> tuple[keras.Model, dict[str, Constant]]:
        gates = {name: self._constants[name][0] for name in chosen}
        return with_constants(self._graph, self._found, gates)

    def _checked(self, model: keras.Model, chosen: list[str]) -> list[np.ndarray]:
        """The outputs of the new model, which must be those with the constants injected."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)  # the old model has warned
            new = KerasReference(model, _PURPOSE, self._input_shape)
        with step("outputs of the new model"):
            outputs = new.read(self._samples)[1]
        wanted = self._with(chosen)
        if not Distance.of(wanted, outputs).error(outputs) <= _ROUNDING:
            raise InputError(
                "fold needs layers that compute the same each time that they are copied. Received: "
                f"model {self._model.name!r}, whose folded twin gives other outputs"
            )
        return outputs

    def _sites(
        self,
        worth: dict[str, float],
        became: dict[str, Constant],
        reasons: dict[str, str],
        tolerance: float,
    ) -> dict[str, FoldedSite]:
        sites = {}
        for name, site in self._reference.sites.items():
            found = became.get(name)
            reason = "" if found else reasons.get(name, _too_much(worth.get(name, 0.0), tolerance))
            sites[name] = FoldedSite(
                channels=site.channels,
                worth=worth.get(name),
                how=None if found is None else found.how,
                layers=() if found is None else found.layers,
                reason=reason,
            )
        return sites


def _too_much(share: float, tolerance: float) -> str:
    if share > tolerance:
        return f"it does {share:.1%} of SE's work"
    return "together with the sites that are constant it does too much of SE's work"
