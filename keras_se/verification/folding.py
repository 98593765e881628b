"""Turns SE sites that do little for the outputs into constants."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_se.display.progress import counted, step, with_progress
from keras_se.errors import InputError, PrecisionWarning
from keras_se.graph.compressed import check_plain
from keras_se.graph.models import check_weights
from keras_se.graph.trace import trace
from keras_se.sites.gated import search
from keras_se.sites.site import Site
from keras_se.surgery.folding import Constant, why_kept, with_constants
from keras_se.verification.keras_reference import KerasReference
from keras_se.verification.outcome import class_labels, outcome
from keras_se.verification.reports.folding import FoldedSite, Folding
from keras_se.verification.verdict import MIN_SAMPLES
from keras_se.verification.work import ConstantGates, Distance

_PURPOSE = "fold"
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
    """What constant gates do in a model, and the choice of sites by that."""

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
        self._count = len(next(iter(self._samples.values())))
        if self._count < MIN_SAMPLES:
            raise InputError(
                f"fold needs {MIN_SAMPLES} samples or more, to know the mean gates. "
                f"Received: {self._count}"
            )
        self._constant = ConstantGates(self._reference, self._samples)
        if not self._constant.is_finite:
            raise InputError(
                f"fold needs gates and outputs that are finite. Received: model {model.name!r}, "
                "which gives NaN or infinity for x"
            )

    def by(self, sites: Collection[str] | None, tolerance: float, y: Any) -> Folding:
        """Folds sites within a tolerance."""
        constant, labels = self._constant, None
        if y is not None:
            labels = class_labels(_PURPOSE, self._reference.output_shape, y, self._count)
        reasons = {**self._not_asked(sites), **why_kept(self._found)}
        worth = constant.worth()
        chosen = self._chosen(worth, [n for n in constant.own if n not in reasons], tolerance)
        gates = {name: constant.constants[name][0] for name in chosen}
        model, became = with_constants(self._graph, self._found, gates)
        outputs = self._checked(model, chosen) if chosen else constant.outputs
        lost = constant.lost(outputs)
        return Folding(
            model=model,
            sites={
                name: _site(site, worth.get(name), became.get(name), reasons.get(name), tolerance)
                for name, site in self._reference.sites.items()
            },
            tolerance=tolerance,
            work_kept=None if lost is None else 1.0 - lost,
            constant_error=constant.error,
            outcome=outcome(constant.outputs, outputs, constant.steady[0], labels),
            samples=self._count,
        )

    def _not_asked(self, sites: Collection[str] | None) -> dict[str, str]:
        if sites is None:
            return {}
        names, known = {sites} if isinstance(sites, str) else set(sites), self._reference.sites
        if names - set(known):
            raise InputError(
                f"sites must be of {list(known)}. Received: {sorted(names - set(known))}"
            )
        return {name: "it was not asked for" for name in known if name not in names}

    def _chosen(self, worth: Mapping[str, float], names: list[str], tolerance: float) -> list[str]:
        if math.isinf(tolerance) or (tolerance > 0.0 and not worth):
            return names
        # A site that does more than the tolerance by itself will not do less beside others.
        shares = {name: worth.get(name, 0.0) for name in names}
        names = sorted((n for n in names if shares[n] <= tolerance), key=shares.__getitem__)
        chosen: list[str] = []
        for name in counted(names, len(names), "sites to fold"):
            outputs = self._constant.at([*chosen, name])
            lost = self._constant.lost(outputs)
            # Where SE does no work, a tolerance of 0 asks for the same outputs.
            if (self._constant.distance(outputs) if lost is None else lost) <= tolerance:
                chosen.append(name)
        return chosen

    def _checked(self, model: keras.Model, chosen: list[str]) -> Sequence[np.ndarray]:
        """The outputs of the new model, which must be those with the constants injected."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)  # the old model has warned
            new = KerasReference(model, _PURPOSE, self._input_shape)
        with step("outputs of the new model"):
            outputs = new.read(self._samples)[1]
        wanted = self._constant.at(chosen)
        if not Distance.of(wanted, outputs).error(outputs) <= _ROUNDING:
            raise InputError(
                "fold needs layers that compute the same each time that they are copied. Received: "
                f"model {self._model.name!r}, whose folded twin gives other outputs"
            )
        return outputs


def _site(
    site: Site,
    worth: float | None,
    became: Constant | None,
    reason: str | None,
    tolerance: float,
) -> FoldedSite:
    if became is not None:
        return FoldedSite(site.channels, worth, became.how, became.layers, "")
    if reason is None:
        reason = "with it too much of SE's work would be lost"
        if worth is not None and worth > tolerance:
            reason = f"it does {worth:.1%} of SE's work"
    return FoldedSite(site.channels, worth, None, (), reason)
