"""How much of what SE does for the outputs is left with other gates: the work kept, W.

Let o(g) be the outputs of the float reference with the gates g: its own f, those of a file q, or
constants c, the means of f over the samples. W = 1 - Σ|o(q) - o(f)|² / Σ|o(c) - o(f)|² is 1 for
the reference's gates and 0 for constant ones. The *worth* of a site is what constants do in it
alone, over what they do in all. Classes are compared as logits, each output over its spread.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keras_se.display.progress import counted, step
from keras_se.litert.inputs import Samples
from keras_se.sites.statistics import spread
from keras_se.verification.reference import Gates, Reference

_LEAST = 0.01  # of the spread of the outputs; constant gates that change less cost nothing
_FEW = 16  # samples, for one run for each site
_AT_ONCE = 2  # sites whose runs fill a batch
_TINY = 1e-7  # a probability of float32 below it is rounding
_ROUNDING = 1e-6  # of the largest output; one that varies by less is constant


@dataclass(frozen=True)
class Work:
    """What SE does for the outputs of a reference, and what is left of it.

    Attributes:
        kept: W; `None` if constant gates change the outputs by less than 1 % of their spread.
        constant_error: The root mean square change of the outputs by constant gates, over their
            spread; `None` if outputs are not finite.
        worth: By site, its share on 16 samples at most; they need not sum to 1. Empty where `kept`
            is `None`.
        constant: The outputs with constant gates.
    """

    kept: float | None
    constant_error: float | None
    worth: Mapping[str, float]
    constant: Sequence[np.ndarray]


def work_kept(
    reference: Reference,
    samples: Samples,
    own: Gates,
    outputs: Sequence[np.ndarray],
    shipped: Gates,
) -> Work | None:
    """Measures W for the gates of a file; `None` if those of a site are missing or not finite."""
    if not set(own) <= set(shipped) or not all(np.isfinite(shipped[n]).all() for n in own):
        return None
    constants = constant_gates(own)
    with step("outputs with constant gates"):
        constant = reference.outputs(samples, constants)
    with step("outputs with the gates of the file"):
        with_shipped = reference.outputs(samples, {name: shipped[name] for name in own})
    known = [outputs, constant, with_shipped]
    if not all(np.isfinite(values).all() for found in known for values in found):
        return Work(None, None, {}, constant)
    distance = Distance.of(*known)
    loss, error = distance(constant), distance.error(constant)
    if error < _LEAST:
        return Work(None, error, {}, constant)
    kept = 1.0 - distance(with_shipped) / loss
    few = {name: array[:_FEW] for name, array in samples.items()}
    first = {name: gates[:_FEW] for name, gates in own.items()}
    level = {name: gates[:_FEW] for name, gates in constants.items()}
    shares = _shares(reference, few, first, level, distance.of_first(_FEW))
    return Work(kept, error, shares, constant)


class ConstantGates:
    """What constant gates do to the outputs of a reference, at all sites or at some.

    Attributes:
        own: The gates of the reference.
        outputs: The outputs that they make.
        constants: Their means over the samples, for each sample.
        steady: The outputs with these at all sites.
    """

    def __init__(self, reference: Reference, samples: Samples) -> None:
        self._reference, self._samples = reference, samples
        self.own, self.outputs = reference.read(samples)
        self.constants = constant_gates(self.own)
        self.steady = self.at(self.own)

    def at(self, names: Collection[str]) -> Sequence[np.ndarray]:
        """Returns the outputs with constant gates at some sites, to which the others react."""
        with step("outputs with constant gates"):
            gates = {name: self.constants[name] for name in names}
            return self._reference.outputs(self._samples, gates)

    @property
    def is_finite(self) -> bool:
        """Whether gates and outputs are finite."""
        known = [*self.own.values(), *self.outputs, *self.steady]
        return all(np.isfinite(values).all() for values in known)

    @cached_property
    def distance(self) -> "Distance":
        """How far outputs are from those of the reference."""
        return Distance.of(self.outputs, self.steady)

    @cached_property
    def error(self) -> float:
        """The root mean square change by constant gates at all sites, over the spread."""
        return self.distance.error(self.steady)

    def lost(self, outputs: Sequence[np.ndarray]) -> float | None:
        """Returns the share of SE's work that some outputs lack; `None` if there is none."""
        return None if self.error < _LEAST else self.distance(outputs) / self.distance(self.steady)

    def worth(self) -> dict[str, float]:
        """Returns by site its share of SE's work; empty if there is none, or it is not known."""
        if not self.is_finite or self.error < _LEAST:
            return {}
        return _shares(self._reference, self._samples, self.own, self.constants, self.distance)


def _shares(
    reference: Reference, samples: Samples, own: Gates, constants: Gates, distance: "Distance"
) -> dict[str, float]:
    loss = distance(reference.outputs(samples, constants))
    if loss == 0.0:
        return {}
    shares: dict[str, float] = {}
    pairs = list(_pairs(list(own)))
    for names in counted(pairs, len(pairs), "worth of each site"):
        found = reference.outputs(*_side_by_side(samples, own, constants, names))
        parts = zip(*(np.split(values, len(names)) for values in found), strict=True)
        for name, part in zip(names, parts, strict=True):
            shares[name] = distance(part) / loss
    return shares


def _pairs(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def _side_by_side(
    samples: Samples, own: Gates, constants: Gates, names: Sequence[str]
) -> tuple[Samples, Gates]:
    """The samples once for each site, whose gates are constant there alone."""
    repeated = {key: np.concatenate([array] * len(names)) for key, array in samples.items()}
    gates = {
        name: np.concatenate([constants[name] if name == n else own[name] for n in names])
        for name in own
    }
    return repeated, gates


def constant_gates(own: Gates) -> dict[str, np.ndarray]:
    """Returns the mean of each gate over the samples, for each sample."""
    means = {name: gates.mean(axis=0, dtype="float64") for name, gates in own.items()}
    return {
        name: np.broadcast_to(means[name].astype("float32"), gates.shape)
        for name, gates in own.items()
    }


@dataclass(frozen=True)
class _Scale:
    """How an output is compared.

    Attributes:
        kind: As `_kind` returns it.
        spread: The standard deviation over samples, rms over the rest; `None` if it is constant.
    """

    kind: str
    spread: float | None


@dataclass(frozen=True)
class Distance:
    """How far outputs are from those of a reference.

    Attributes:
        wanted: The outputs of the reference.
        scales: How each is compared.
    """

    wanted: Sequence[np.ndarray]
    scales: Sequence[_Scale]

    @classmethod
    def of(cls, wanted: Sequence[np.ndarray], *others: Sequence[np.ndarray]) -> "Distance":
        """Returns the distance from some outputs; others of the network tell what they are."""
        kinds = [_kind(values) for values in zip(wanted, *others, strict=True)]
        return cls(wanted, _scales(wanted, kinds))

    def of_first(self, count: int) -> "Distance":
        """Returns the distance from the outputs of the first samples."""
        wanted = [values[:count] for values in self.wanted]
        return Distance(wanted, _scales(wanted, [scale.kind for scale in self.scales]))

    def __call__(self, found: Sequence[np.ndarray]) -> float:
        """Returns the mean square difference in units of the spread, summed over the outputs."""
        return sum(
            float(((_logits(f, scale.kind) - _logits(w, scale.kind)) ** 2).mean()) / scale.spread**2
            for w, f, scale in zip(self.wanted, found, self.scales, strict=True)
            if scale.spread is not None
        )

    def error(self, found: Sequence[np.ndarray]) -> float:
        """Returns the root mean square difference over the spread."""
        counted = sum(scale.spread is not None for scale in self.scales)
        return float(np.sqrt(self(found) / max(counted, 1)))


def _scales(outputs: Sequence[np.ndarray], kinds: Sequence[str]) -> list[_Scale]:
    return [
        _Scale(kind, _spread(_logits(values, kind)))
        for values, kind in zip(outputs, kinds, strict=True)
    ]


def _kind(values: Sequence[np.ndarray]) -> str:
    """Returns what an output is in all of some runs: `"softmax"`, `"sigmoid"`, or empty."""
    # All runs must tell: a regression may stay between 0 and 1 in some of them.
    shape = values[0].shape
    is_bounded = all(v.min(initial=0.0) >= 0.0 and v.max(initial=0.0) <= 1.0 for v in values)
    if len(shape) < 2 or not is_bounded:
        return ""
    if shape[-1] == 1:
        # A sigmoid of float32 reaches 1, but not 0, as a ReLU does.
        return "sigmoid" if all(v.min() > 0.0 for v in values) else ""
    sums = [v.sum(axis=-1, dtype="float64") for v in values]
    return "softmax" if all(np.allclose(total, 1.0, atol=1e-3) for total in sums) else ""


def _logits(values: np.ndarray, kind: str) -> np.ndarray:
    """Classes as logits: probabilities saturate, where a gate may do much or nothing."""
    values = values.astype("float64")
    if not kind:
        return values
    clipped = np.clip(values, _TINY, 1.0 - _TINY)
    if kind == "sigmoid":
        return np.asarray(np.log(clipped / (1.0 - clipped)))
    logs = np.log(clipped)
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))


def _spread(values: np.ndarray) -> float | None:
    found = spread(values)
    return found if found > _ROUNDING * np.abs(values).max() else None
