"""What an SE site is called and looks like, in a model or in a file."""

from dataclasses import dataclass
from typing import Literal

Form = Literal["two_matrices", "one_matrix"]
FORMS: dict[int, Form] = {1: "one_matrix", 2: "two_matrices"}  # by the number of matrices
PREFIXES = {"self": "se", "cross": "cross"}  # of the names of sites, by their kind


@dataclass(frozen=True)
class Site:
    """One SE site of a Keras model or of a TFLite file.

    Attributes:
        name: Ordinal name in topological order, such as `"se_2"`, or in a nested model
            or a composite layer `"outer/se_1"`; `"cross_1"` for cross sites.
        channels: C, the number of gated channels.
        width: Number of units of the bottleneck; that of the gates if there is one matrix only.
        gate: Name of the gate.
        after: Name of the layer (in a TFLite file: of the tensor) whose output is gated.
        layer: Name of the `SEBlock` (for inline SE: of the product; in a TFLite file: of the tensor
            that holds the gates).
        source: `"SEBlock"`, `"GraphSEBlock"`, `"inline"` for SE built from other layers, or
            `"tflite"`.
        kind: `"self"`, or `"cross"` if another map is squeezed, as in LR-ASPP and in decoders.
        form: `"two_matrices"`, or `"one_matrix"` for an excitation without a bottleneck (eSE).
        squeeze: Name of the squeeze, or `"unknown"`.
    """

    name: str
    channels: int
    width: int
    gate: str
    after: str
    layer: str
    source: str = "SEBlock"
    kind: str = "self"
    form: Form = "two_matrices"
    squeeze: str = "avg"
