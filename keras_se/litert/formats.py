"""Formats of a TFLite file, and what a conversion to one can be told."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keras_se.errors import InputError

FormatName = Literal["float32", "float16", "dynamic", "weight_only", "int8", "int16x8"]
IOType = Literal["float32", "int8", "uint8", "int16"]


@dataclass(frozen=True)
class Format:
    """A format of a TFLite file.

    Attributes:
        name: Name of the format.
        needs_calibration: Whether activation ranges come from representative data.
        io_types: Possible types of inputs and outputs, the default first.
    """

    name: FormatName
    needs_calibration: bool = False
    io_types: tuple[IOType, ...] = ("float32",)


FORMATS: dict[str, Format] = {
    spec.name: spec
    for spec in (
        Format("float32"),
        Format("float16"),
        Format("dynamic"),
        Format("weight_only"),
        Format("int8", needs_calibration=True, io_types=("int8", "uint8", "float32")),
        Format("int16x8", needs_calibration=True, io_types=("int16", "float32")),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of a conversion, as `to_tflite` takes them.

    Attributes:
        format: Name of the format.
        input_type: Type of the float inputs in the file; `None` for the default of the format.
        output_type: The same for the outputs.
        input_shape: Shape of one sample, for a model of open sizes.
        keep_float: Names of SE sites that stay in float32.
        check_range: Whether to refuse calibration data of another range than the training data.
        path: Where to write the file and its recipe, or `None`.
        overwrite: Whether to replace existing files.
    """

    format: FormatName = "int8"
    input_type: IOType | None = None
    output_type: IOType | None = None
    input_shape: Sequence[int] | None = None
    keep_float: Sequence[str] = ()
    check_range: bool = True
    path: str | os.PathLike[str] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        possible = self.spec.io_types
        for name in ("input_type", "output_type"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, str) or given not in possible):
                raise InputError(
                    f"{name} must be one of {list(possible)} for format={self.format!r}. "
                    f"Received: {name}={given!r}"
                )
        # A string is a sequence, too: of names of one letter.
        is_one = isinstance(self.keep_float, str)
        if is_one or (self.keep_float and not self.spec.needs_calibration):
            raise InputError(
                "keep_float must be a list of SE sites, and needs format 'int8' or 'int16x8'. "
                f"Received: keep_float={self.keep_float!r} for format={self.format!r}"
            )

    @property
    def spec(self) -> Format:
        """The format."""
        # A list or a dictionary would fail in the look-up: it is not hashable.
        if not isinstance(self.format, str) or self.format not in FORMATS:
            raise InputError(
                f"format must be one of {list(FORMATS)}. Received: format={self.format!r}"
            )
        return FORMATS[self.format]

    @property
    def io_types(self) -> tuple[IOType, IOType]:
        """The types of inputs and outputs in the file."""
        default = self.spec.io_types[0]
        return self.input_type or default, self.output_type or default
