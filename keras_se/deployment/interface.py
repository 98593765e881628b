"""What an app must feed to the file, and what it gets: the types of inputs and outputs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.litert.graph.flatbuffer import TFLite
from keras_se.litert.runtime import Runner


@dataclass(frozen=True)
class Port:
    """An input or an output of a file.

    Attributes:
        type: Its type in the file, such as `"int8"`.
        scale: Step of its codes, in units of the float network; `None` if it holds no codes.
        zero_point: The code of 0; `None` if it holds no codes.
        float_type: Its type in the float file.
    """

    type: str
    scale: float | None
    zero_point: int | None
    float_type: str

    def __str__(self) -> str:
        if self.scale is None:
            return self.type
        return f"{self.type} (scale {self.scale:.3g}, zero point {self.zero_point})"


def ports(file: TFLite, float32: TFLite) -> tuple[dict[str, Port], dict[str, Port]]:
    """Returns the inputs and the outputs of a file, by name."""
    own, other = Runner(file), Runner(float32)
    pairs = (own.inputs, other.inputs), (own.output_details, other.output_details)
    inputs, outputs = (
        {
            name: _port(found, theirs)
            for (name, found), theirs in zip(a.items(), b.values(), strict=True)
        }
        for a, b in pairs
    )
    return inputs, outputs


def _port(details: Any, others: Any) -> Port:
    name, float_name = (np.dtype(d["dtype"]).name for d in (details, others))
    scale, zero_point = details["quantization"]
    if not scale:
        return Port(name, None, None, float_name)
    return Port(name, float(scale), int(zero_point), float_name)


def interface(inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> str:
    """Returns a sentence on the types; empty if they are those of the float network."""
    every = [*inputs.values(), *outputs.values()]
    if all(port.type == port.float_type for port in every):
        return ""
    types = " and ".join(dict.fromkeys(port.float_type for port in every))
    own = f"Inputs {_told(inputs.values())}, outputs {_told(outputs.values())}"
    return f"{own}; the float network has {types}."


def _told(found: Iterable[Port]) -> str:
    return " and ".join(dict.fromkeys(map(str, found)))
