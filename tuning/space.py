"""The search space: placement, reduction ratio, gate and squeeze of SE blocks, or no SE."""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import keras

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import gates, squeezes
from keras_se.layers.bottleneck import standardize_ratio, validate_width_arguments
from keras_se.layers.gates import GateName
from keras_se.layers.squeezes import SqueezeName
from keras_se.surgery.placements import PLACEMENTS, Placement
from tuning.seeding import site_initializer

Scope = Literal["model", "stage", "site"]
BASELINE = "none"
SWITCH = "se_placement"


@dataclass(frozen=True)
class SESpace:
    """A grid of SE block settings, as keras-tuner hyperparameters.

    The first hyperparameter, `se_placement`, is a placement or `"none"`, the network without SE.
    The others are active only if it is not `"none"`, so the baseline is a single candidate:
    `se_ratio`, `se_gate` and `se_squeeze`; per stage `stage_1_ratio` ..., per site `se_1_ratio` ...
    Those of one value are declared, too: the name of a candidate does not depend on the others.

    Attributes:
        ratios: Reduction ratios r, each at least 1.
        gates: Names of gates.
        squeezes: Names of squeezes.
        placements: Places in a residual unit, as for `candidates`.
        per: Scope of the settings: `"model"`, `"stage"` (sites of one resolution), or `"site"`.
        baseline: Whether the network without SE is a candidate.

    Raises:
        InputError: If a list is empty or repeats a value, or if `SEBlock` or `insert` rejects one.

    Source: Hu et al., arXiv 1709.01507v4, section 6 (the choices).

    Example:
        >>> SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh")).size
        7
    """

    ratios: tuple[float, ...] = (2, 4, 8, 16, 32)
    gates: tuple[GateName, ...] = ("sigmoid", "hard_sigmoid", "one_plus_tanh")
    squeezes: tuple[SqueezeName, ...] = ("avg",)
    placements: tuple[Placement, ...] = ("standard",)
    per: Scope = "model"
    baseline: bool = True

    def __post_init__(self) -> None:
        for name, standardize in (
            ("ratios", _ratio),
            ("gates", gates.standardize),
            ("squeezes", squeezes.standardize),
            ("placements", _placement),
        ):
            given = getattr(self, name)
            # Without the test for `str`, gates="sigmoid" would become a list of characters.
            values = [] if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
            _check_different(name, given, values)
            standardized = tuple(standardize(value) for value in values)
            # Again: a gate's function and its name mean the same setting.
            _check_different(name, values, standardized)
            object.__setattr__(self, name, standardized)
        for value in (*self.gates, *self.squeezes):
            # `SEBlock` accepts callables, but a keras-tuner hyperparameter cannot hold one.
            if not isinstance(value, str):
                raise InputError(
                    f"A space must hold gates and squeezes by name. Received: {value!r}"
                )
        scopes = list(get_args(Scope))
        if self.per not in scopes:
            raise InputError(f"per must be one of {scopes}. Received: per={self.per!r}")
        if not isinstance(self.baseline, bool):
            raise InputError(
                f"baseline must be True or False. Received: baseline={self.baseline!r}"
            )

    @property
    def size(self) -> int:
        """Number of candidates, for one setting per model.

        Raises:
            InputError: If each stage or site has its own settings: the model decides the size.
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

    def placement(self, hp: Any) -> Placement | None:
        """Returns the placement that the hyperparameters select.

        Args:
            hp: `keras_tuner.HyperParameters`; the method adds `se_placement` to it.

        Returns:
            A placement, or `None` for the network without SE.
        """
        chosen = hp.Choice(_switch(hp), [*self.placements, *([BASELINE] if self.baseline else [])])
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
        with hp.conditional_scope(_switch(hp), list(self.placements)):
            # keras-tuner requires all values of a Choice to have the same type.
            ratio = hp.Choice(f"{scope}_ratio", [number(ratio) for ratio in self.ratios])
            gate = hp.Choice(f"{scope}_gate", list(self.gates))
            squeeze = hp.Choice(f"{scope}_squeeze", list(self.squeezes))
        if placement is None:
            return {}
        return {"ratio": number(ratio), "gate": gate, "squeeze": squeeze}

    def block(self, hp: Any, name: str) -> keras.layers.Layer:
        """Creates an SE block with its own hyperparameters, for use inside a `build(hp)` function.

        Args:
            hp: `keras_tuner.HyperParameters`. All blocks share its `se_placement`.
            name: Name of the block and prefix of its hyperparameters, unique for each block.
                Blocks inside a `conditional_scope` share a switch of that scope, such as
                `"se_placement if arch=a"`.

        Returns:
            An `SEBlock` named `name`, which does not change the initial weights of later layers in
            a search, or, without SE, an `Identity` layer of that name.

        Raises:
            InputError: If the space has several placements: a block cannot move to another one.

        Example:
            >>> import keras_tuner
            >>> SESpace(ratios=(4,)).block(keras_tuner.HyperParameters(), "se_1").ratio
            4
        """
        if len(self.placements) > 1:
            raise InputError(
                "block needs a space with one placement: a block stays where build(hp) puts it. "
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
        return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(self).items()}

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
            raise InputError(
                f"A space must be a mapping with keys among {known}. Received: {values!r}"
            )
        return cls(**values)


def is_baseline(values: Mapping[str, Any]) -> bool:
    """Returns whether hyperparameter values select the network without SE."""
    switches = [value for name, value in values.items() if name.startswith(SWITCH)]
    return bool(switches) and all(value == BASELINE for value in switches)


def _switch(hp: Any) -> str:
    # A name of its own in each conditional scope: keras-tuner drops the value of a name that is
    # declared under several conditions where one of them does not hold. What is declared in a copy
    # has the conditions of the current scope.
    probe = copy.deepcopy(hp)
    probe.Fixed("probe", 0)
    found = probe.space[-1].conditions
    conditions = [f"{c.name}={'|'.join(map(str, c.values))}" for c in found]
    return " if ".join([SWITCH, " and ".join(conditions)]) if conditions else SWITCH


def _check_different(name: str, values: Any, listed: Sequence[Any]) -> None:
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
