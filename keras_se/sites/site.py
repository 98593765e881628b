"""What an SE site is called and looks like, in a model or in a file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One SE site of a Keras model or of a TFLite file.

    Attributes:
        name: Ordinal name in topological order, such as `"se_2"`, or in a nested model
            `"outer/se_1"`.
        channels: C, the number of gated channels.
        width: Number of units of the bottleneck.
        gate: Name of the gate.
        after: Name of the layer (in a TFLite file: of the tensor) whose output is gated.
        layer: Name of the `SEBlock` (for inline SE: of the product; in a TFLite file: of the tensor
            that holds the gates).
        source: `"SEBlock"`, `"inline"` for SE built from other layers, or `"tflite"`.
        kind: `"self"`, or `"cross"` if another map is squeezed, as in LR-ASPP and in decoders.
    """

    name: str
    channels: int
    width: int
    gate: str
    after: str
    layer: str
    source: str = "SEBlock"
    kind: str = "self"
