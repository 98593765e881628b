"""Formats of a TFLite file."""

from dataclasses import dataclass

from keras_se.errors import InputError


@dataclass(frozen=True)
class Format:
    """A format of a TFLite file.

    Attributes:
        name: Name of the format.
        weights: Type of the stored weights of convolutions and fully connected layers.
        activations: Type of the tensors between the operations.
        io_types: Possible types of inputs and outputs, the default first.
    """

    name: str
    weights: str
    activations: str
    io_types: tuple[str, ...] = ("float32",)

    @property
    def needs_calibration(self) -> bool:
        """Whether activation ranges come from representative data."""
        return self.activations != "float32"


FORMATS = {
    spec.name: spec
    for spec in (
        Format("float32", "float32", "float32"),
        Format("float16", "float16", "float32"),
        # Kernels quantize activations at run time; the tensors in the file stay float32.
        Format("dynamic", "int8", "float32"),
        Format("weight_only", "int8", "float32"),
        Format("int8", "int8", "int8", ("int8", "uint8", "float32")),
        Format("int16x8", "int8", "int16", ("int16", "float32")),
    )
}


def get(name: str) -> Format:
    """Returns the format with a name."""
    # A list or a dictionary would fail in the look-up: it is not hashable.
    if not isinstance(name, str) or name not in FORMATS:
        raise InputError(f"format must be one of {list(FORMATS)}. Received: format={name!r}")
    return FORMATS[name]
