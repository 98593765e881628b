"""The formats of a TFLite file, and what each holds as integers."""

from dataclasses import dataclass

from keras_se.errors import InputError


@dataclass(frozen=True)
class Format:
    """A format that a model can be converted to.

    Attributes:
        name: Its name.
        weights: Type of the stored weights of convolutions and fully connected layers.
        activations: Type of what flows between the operations.
        io_types: Types that inputs and outputs can have, the default first.
    """

    name: str
    weights: str
    activations: str
    io_types: tuple[str, ...] = ("float32",)

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations are measured on representative data."""
        return self.activations != "float32"


FORMATS = {
    spec.name: spec
    for spec in (
        Format("float32", "float32", "float32"),
        Format("float16", "float16", "float32"),
        Format("dynamic", "int8", "float32"),
        Format("weight_only", "int8", "float32"),
        Format("int8", "int8", "int8", ("int8", "uint8", "float32")),
        Format("int16x8", "int8", "int16", ("int16", "float32")),
    )
}


def get(name: str) -> Format:
    """The format of a name.

    Args:
        name: A key of `FORMATS`.

    Returns:
        The `Format`.

    Raises:
        InputError: If there is none of that name.

    Example:
        >>> get("int8").io_types
        ('int8', 'uint8', 'float32')
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise InputError(f"format must be one of {list(FORMATS)}. Received: format={name!r}")
    return FORMATS[name]
