"""What a search may choose: the reduction ratio and the gate."""

from dataclasses import dataclass
from typing import Any

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import gates
from keras_se.layers.widths import validate_width_arguments


@dataclass(frozen=True)
class SESpace:
    """A grid of reduction ratios and gates, as hyperparameters of keras-tuner.

    Attributes:
        ratios: Reduction ratios r, each at least 1.
        gates: Names of gates.

    Raises:
        InputError: If a list is empty, repeats itself, or holds a value that `SEBlock` refuses.

    Example:
        >>> SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh")).size
        6
    """

    ratios: tuple[float, ...] = (2, 4, 8, 16, 32)
    gates: tuple[str, ...] = ("sigmoid", "hard_sigmoid", "one_plus_tanh")

    def __post_init__(self) -> None:
        for name in ("ratios", "gates"):
            values = getattr(self, name)
            if isinstance(values, str) or not values or len(set(values)) != len(values):
                raise InputError(
                    f"{name} must be a sequence of different values, at least one. "
                    f"Received: {name}={values!r}"
                )
            object.__setattr__(self, name, tuple(values))
        for ratio in self.ratios:
            validate_width_arguments(ratio, None, 1)
        for gate in self.gates:
            gates.get(gate)

    @property
    def size(self) -> int:
        """Number of combinations."""
        return len(self.ratios) * len(self.gates)

    def settings(self, hp: Any, name: str = "se") -> dict[str, Any]:
        """The arguments of `SEBlock` that these hyperparameters hold.

        Args:
            hp: `keras_tuner.HyperParameters`; `NAME_ratio` and `NAME_gate` are added to it.
            name: What the names of the hyperparameters begin with.

        Returns:
            `{"ratio": ..., "gate": ...}`.
        """
        ratios = [float(r) if self._has_fractions else int(r) for r in self.ratios]
        return {
            "ratio": hp.Choice(f"{name}_ratio", ratios),
            "gate": hp.Choice(f"{name}_gate", list(self.gates)),
        }

    def block(self, hp: Any, name: str) -> SEBlock:
        """An SE block configured by its own hyperparameters, for use inside a `build(hp)`.

        Args:
            hp: `keras_tuner.HyperParameters`.
            name: Name of the block and of its hyperparameters, different for each block.

        Returns:
            The block, named `name`.

        Example:
            >>> import keras_tuner
            >>> SESpace(ratios=(4,)).block(keras_tuner.HyperParameters(), "se_1").ratio
            4
        """
        return SEBlock(**self.settings(hp, name), name=name)

    @property
    def _has_fractions(self) -> bool:
        """Whether a ratio is fractional: keras-tuner takes values of one type only."""
        return any(float(ratio) != int(ratio) for ratio in self.ratios)
