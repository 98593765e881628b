"""What a search may choose: placement, reduction ratio, gate and squeeze, or no SE at all."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import gates, squeezes
from keras_se.layers.widths import standardize_ratio, validate_width_arguments
from keras_se.placements import PLACEMENTS
from tuning.seeding import site_initializer

PER = ("model", "stage", "site")
BASELINE = "none"
_SWITCH = "se_placement"


@dataclass(frozen=True)
class SESpace:
    """A grid of settings of SE blocks, as hyperparameters of keras-tuner.

    The first, `se_placement`, is a placement or `"none"`, the network without SE. The others are
    there where it is not `"none"`, so that the baseline is one candidate: `se_ratio`, `se_gate` and
    `se_squeeze`; per stage `stage_1_ratio` ..., per site `se_1_ratio` ... Each is declared even if
    it has one value: what a candidate is called does not depend on the rest of the space.

    Attributes:
        ratios: Reduction ratios r, each at least 1.
        gates: Names of gates.
        squeezes: Names of squeezes.
        placements: Places in a residual unit, as for `candidates`.
        per: What has settings of its own: the `"model"`, each `"stage"` (sites of one resolution),
            or each `"site"`.
        baseline: Whether the network without SE is a candidate.

    Raises:
        InputError: If a list is empty, repeats itself, or holds a value that `SEBlock` or `insert`
            refuses.

    Source: Hu et al., arXiv 1709.01507v4, section 6 (what there is to choose).

    Example:
        >>> SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh")).size
        7
    """

    ratios: tuple[float, ...] = (2, 4, 8, 16, 32)
    gates: tuple[str, ...] = ("sigmoid", "hard_sigmoid", "one_plus_tanh")
    squeezes: tuple[str, ...] = ("avg",)
    placements: tuple[str, ...] = ("standard",)
    per: str = "model"
    baseline: bool = True

    def __post_init__(self) -> None:
        for name, standardize in (
            ("ratios", _ratio),
            ("gates", gates.standardize),
            ("squeezes", squeezes.standardize),
            ("placements", _placement),
        ):
            values = _listed(name, getattr(self, name))
            _check_different(name, values, [standardize(value) for value in values])
            object.__setattr__(self, name, tuple(standardize(value) for value in values))
        _check_names(self.gates, self.squeezes)
        if self.per not in PER:
            raise InputError(f"per must be one of {list(PER)}. Received: per={self.per!r}")
        if not isinstance(self.baseline, bool):
            raise InputError(
                f"baseline must be True or False. Received: baseline={self.baseline!r}"
            )

    @property
    def size(self) -> int:
        """Number of candidates, with one setting for the whole model.

        Raises:
            InputError: If each stage or site has settings of its own: it then depends on the model.
        """
        if self.per != "model":
            raise InputError(
                "The size of a space with settings per stage or site depends on the model: use "
                f"SEHyperModel(...).size. Received: per={self.per!r}"
            )
        return self.size_for(1)

    def size_for(self, scopes: int) -> int:
        """Number of candidates, with settings for so many stages or sites.

        Args:
            scopes: Number of stages or sites, at least 1.

        Returns:
            The number, with the baseline.

        Example:
            >>> SESpace(ratios=(2, 4), gates=("sigmoid",), per="site").size_for(3)
            9
        """
        settings = len(self.ratios) * len(self.gates) * len(self.squeezes)
        return int(self.baseline) + len(self.placements) * settings**scopes

    def declare(self, hp: Any, scopes: Sequence[str] = ("se",)) -> None:
        """Adds all hyperparameters, in their order.

        Args:
            hp: `keras_tuner.HyperParameters`.
            scopes: What the names of the settings begin with, of each stage or site.

        Example:
            >>> import keras_tuner
            >>> hp = keras_tuner.HyperParameters()
            >>> SESpace().declare(hp)
            >>> [parameter.name for parameter in hp.space]
            ['se_placement', 'se_ratio', 'se_gate', 'se_squeeze']
        """
        self.placement(hp)
        for scope in scopes:
            self.settings(hp, scope)

    def placement(self, hp: Any) -> str | None:
        """The placement that these hyperparameters hold.

        Args:
            hp: `keras_tuner.HyperParameters`; `se_placement` is added to it.

        Returns:
            A placement, or `None` for the network without SE.
        """
        chosen = hp.Choice(_SWITCH, [*self.placements, *([BASELINE] if self.baseline else [])])
        return None if chosen == BASELINE else chosen

    def settings(self, hp: Any, scope: str = "se") -> dict[str, Any]:
        """The arguments of `SEBlock` that these hyperparameters hold.

        Args:
            hp: `keras_tuner.HyperParameters`; what is missing is added to it.
            scope: What the names of the hyperparameters begin with.

        Returns:
            `{"ratio": ..., "gate": ..., "squeeze": ...}`; for the network without SE `{}`.
        """
        placement = self.placement(hp)
        number = float if any(int(ratio) != ratio for ratio in self.ratios) else int
        with hp.conditional_scope(_SWITCH, list(self.placements)):
            # All of one type, which keras-tuner wants.
            ratio = hp.Choice(f"{scope}_ratio", [number(ratio) for ratio in self.ratios])
            gate = hp.Choice(f"{scope}_gate", list(self.gates))
            squeeze = hp.Choice(f"{scope}_squeeze", list(self.squeezes))
        if placement is None:
            return {}
        return {"ratio": number(ratio), "gate": gate, "squeeze": squeeze}

    def block(self, hp: Any, name: str) -> keras.layers.Layer:
        """An SE block configured by its own hyperparameters, for use inside a `build(hp)`.

        Within `trial_seed` the layers after it start as they would without it.

        Args:
            hp: `keras_tuner.HyperParameters`. All blocks share its `se_placement`.
            name: Name of the block and of its hyperparameters, different for each block.

        Returns:
            An `SEBlock` named `name`; for the network without SE an `Identity` of that name.

        Raises:
            InputError: If the space has several placements, of which a block knows nothing.

        Example:
            >>> import keras_tuner
            >>> SESpace(ratios=(4,)).block(keras_tuner.HyperParameters(), "se_1").ratio
            4
        """
        if len(self.placements) > 1:
            raise InputError(
                "A block stays where build(hp) puts it, so that its space must have one placement. "
                f"Received: placements={self.placements!r}"
            )
        settings = self.settings(hp, name)
        if not settings:
            return keras.layers.Identity(name=name)
        return SEBlock(**settings, kernel_initializer=site_initializer(name), name=name)

    def to_dict(self) -> dict[str, Any]:
        """The arguments of the space, as JSON holds them.

        Returns:
            What `from_dict` takes.

        Example:
            >>> SESpace(ratios=(2, 4)).to_dict()["ratios"]
            [2, 4]
        """
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The space with these arguments.

        Args:
            values: What `to_dict` gave, or a part of it.

        Returns:
            The space.

        Raises:
            InputError: If there is an unknown argument, or a value breaks its rule.

        Example:
            >>> SESpace.from_dict({"ratios": [2, 4]}).ratios
            (2, 4)
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or not set(values) <= set(known):
            raise InputError(f"A space is a mapping with keys among {known}. Received: {values!r}")
        return cls(**values)


def _listed(name: str, values: Any) -> list[Any]:
    listed = [] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
    _check_different(name, values, listed)
    return listed


def _check_different(name: str, values: Any, listed: list[Any]) -> None:
    if not listed or any(value in listed[:n] for n, value in enumerate(listed)):
        raise InputError(
            f"{name} must be a sequence of different values, at least one. "
            f"Received: {name}={values!r}"
        )


def _ratio(ratio: Any) -> float:
    validate_width_arguments(ratio, None, 1)
    return standardize_ratio(ratio)


def _placement(placement: Any) -> Any:
    if placement not in PLACEMENTS:
        raise InputError(
            f"placements must be among {list(PLACEMENTS)}. Received: {placement!r} in placements"
        )
    return placement


def _check_names(*lists: tuple[Any, ...]) -> None:
    """A callable of the user's own serves a block, but no hyperparameter can hold it."""
    for value in (value for values in lists for value in values):
        if not isinstance(value, str):
            raise InputError(f"A space holds gates and squeezes by name. Received: {value!r}")
