"""The search space: placement, reduction ratio, gate and squeeze of SE blocks, or no SE."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import gates, squeezes
from keras_se.layers.bottleneck import standardize_ratio, validate_width_arguments
from keras_se.surgery.placements import PLACEMENTS
from tuning.seeding import site_initializer

PER = ("model", "stage", "site")
BASELINE = "none"
_SWITCH = "se_placement"


@dataclass(frozen=True)
class SESpace:
    """A grid of SE block settings, as keras-tuner hyperparameters.

    The first hyperparameter, `se_placement`, is a placement or `"none"`, the network without SE.
    The others are active only if it is not `"none"`, so the baseline is a single candidate:
    `se_ratio`, `se_gate` and `se_squeeze`; per stage `stage_1_ratio` ..., per site `se_1_ratio` ...
    The space declares each hyperparameter even if it has only one value, so the name of a candidate
    does not depend on the rest of the space.

    Attributes:
        ratios: Reduction ratios r, each at least 1.
        gates: Names of gates.
        squeezes: Names of squeezes.
        placements: Places in a residual unit, as for `candidates`.
        per: Scope of the settings: the `"model"`, each `"stage"` (sites of one resolution), or each
            `"site"`.
        baseline: Whether the network without SE is a candidate.

    Raises:
        InputError: If a list is empty, has duplicates, or holds a value that `SEBlock` or `insert`
            rejects.

    Source: Hu et al., arXiv 1709.01507v4, section 6 (the choices).

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
            # Again, after `_listed`: a gate's function and its name mean the same setting.
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
        """Number of candidates, for one setting per model.

        Raises:
            InputError: If each stage or site has its own settings: the size then depends on the
                model.
        """
        if self.per != "model":
            raise InputError(
                "The size of a space with settings per stage or site depends on the model: use "
                f"SEHyperModel(...).size. Received: per={self.per!r}"
            )
        return self.size_for(1)

    def size_for(self, scopes: int) -> int:
        """Returns the number of candidates for a given number of stages or sites.

        Args:
            scopes: Number of stages or sites, at least 1.

        Returns:
            The number of candidates, including the baseline.

        Example:
            >>> SESpace(ratios=(2, 4), gates=("sigmoid",), per="site").size_for(3)
            9
        """
        settings = len(self.ratios) * len(self.gates) * len(self.squeezes)
        return int(self.baseline) + len(self.placements) * settings**scopes

    def declare(self, hp: Any, scopes: Sequence[str] = ("se",)) -> None:
        """Adds all hyperparameters in their order.

        Args:
            hp: `keras_tuner.HyperParameters`.
            scopes: Name prefix of the settings of each stage or site.

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
        """Returns the placement that the hyperparameters select.

        Args:
            hp: `keras_tuner.HyperParameters`; the method adds `se_placement` to it.

        Returns:
            A placement, or `None` for the network without SE.
        """
        chosen = hp.Choice(_SWITCH, [*self.placements, *([BASELINE] if self.baseline else [])])
        return None if chosen == BASELINE else chosen

    def settings(self, hp: Any, scope: str = "se") -> dict[str, Any]:
        """Returns the arguments of `SEBlock` that the hyperparameters select.

        Args:
            hp: `keras_tuner.HyperParameters`; the method adds missing hyperparameters to it.
            scope: Name prefix of the hyperparameters.

        Returns:
            `{"ratio": ..., "gate": ..., "squeeze": ...}`, or `{}` for the network without SE.
        """
        # Declare everything, even for the baseline: `declare` uses this to register the space.
        placement = self.placement(hp)
        number = float if any(int(ratio) != ratio for ratio in self.ratios) else int
        with hp.conditional_scope(_SWITCH, list(self.placements)):
            # keras-tuner requires all values of a Choice to have the same type.
            ratio = hp.Choice(f"{scope}_ratio", [number(ratio) for ratio in self.ratios])
            gate = hp.Choice(f"{scope}_gate", list(self.gates))
            squeeze = hp.Choice(f"{scope}_squeeze", list(self.squeezes))
        if placement is None:
            return {}
        return {"ratio": number(ratio), "gate": gate, "squeeze": squeeze}

    def block(self, hp: Any, name: str) -> keras.layers.Layer:
        """Creates an SE block with its own hyperparameters, for use inside a `build(hp)` function.

        In a search, the block does not change the initial weights of the layers after it.

        Args:
            hp: `keras_tuner.HyperParameters`. All blocks share its `se_placement`.
            name: Name of the block and prefix of its hyperparameters, unique for each block.

        Returns:
            An `SEBlock` named `name`, or an `Identity` layer of that name for the network without
            SE.

        Raises:
            InputError: If the space has several placements: a block cannot move to another one.

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
            return keras.layers.Identity(name=name)  # same layer names with and without SE
        # An unseeded initializer would draw from the random stream of the layers after the block.
        return SEBlock(**settings, kernel_initializer=site_initializer(name), name=name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments of the space as plain values for JSON.

        Returns:
            A dictionary that `from_dict` takes.

        Example:
            >>> SESpace(ratios=(2, 4)).to_dict()["ratios"]
            [2, 4]
        """
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Creates a space from a dictionary of its arguments.

        Args:
            values: The result of `to_dict`, or a part of it.

        Returns:
            The space.

        Raises:
            InputError: If an argument is unknown or invalid.

        Example:
            >>> SESpace.from_dict({"ratios": [2, 4]}).ratios
            (2, 4)
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or not set(values) <= set(known):
            raise InputError(f"A space is a mapping with keys among {known}. Received: {values!r}")
        return cls(**values)


def _listed(name: str, values: Any) -> list[Any]:
    # Without the test for `str`, gates="sigmoid" would become a list of characters.
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
    """Raises an error if a gate or squeeze is not given by name."""
    # `SEBlock` accepts callables, but a keras-tuner hyperparameter cannot hold one.
    for value in (value for values in lists for value in values):
        if not isinstance(value, str):
            raise InputError(f"A space holds gates and squeezes by name. Received: {value!r}")
