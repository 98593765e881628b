"""What a verdict needs of a reference, whether it is a Keras model or a float file."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from keras_se.litert.gates import MapName
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.litert.inputs import Samples
from keras_se.sites.site import Site

Gates = Mapping[str, np.ndarray]  # by site name, shape (samples, channels)


class Reference(Protocol):
    """A network in float whose gates a file must have.

    Attributes:
        name: What it is called in a sentence.
        sites: Its sites, by name.
        map_name: The tensor of a site in a file of which `replay` makes its gates.
        output_shape: Shape of its first output, with the axis of the samples.
    """

    sites: dict[str, Site]
    map_name: MapName

    @property
    def name(self) -> str:
        """What it is called in a sentence."""

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of its first output, with the axis of the samples."""

    def samples(self, x: Any, what: str) -> Samples:
        """Returns inputs as arrays, by their names."""

    def read(self, samples: Samples) -> tuple[Gates, list[np.ndarray]]:
        """Returns the gates, and the outputs that they make."""

    def outputs(self, samples: Samples, gates: Gates) -> list[np.ndarray]:
        """Returns the outputs with given gates for each site."""

    def replay(self, name: str, maps: np.ndarray) -> np.ndarray | None:
        """Returns the gates of a site for other maps; `None` if they are not made of one map."""

    def matched(self, file: TFLiteModel, samples: Samples) -> Mapping[str, str]:
        """Returns the names of the sites in a file by those in the reference."""


class Remembered:
    """A reference for several files: what it has computed for some gates it does not repeat.

    Attributes:
        sites: As of the reference.
        map_name: As of the reference.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.sites, self.map_name = reference.sites, reference.map_name
        self._outputs: dict[str, list[np.ndarray]] = {}
        self._read: dict[str, tuple[Gates, list[np.ndarray]]] = {}

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return self._reference.name

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of its first output."""
        return self._reference.output_shape

    def samples(self, x: Any, what: str) -> Samples:
        """Returns inputs as arrays, by their names."""
        return self._reference.samples(x, what)

    def read(self, samples: Samples) -> tuple[Gates, list[np.ndarray]]:
        """Returns the gates, and the outputs that they make."""
        key = _digest(samples)
        if key not in self._read:
            self._read[key] = self._reference.read(samples)
        return self._read[key]

    def outputs(self, samples: Samples, gates: Gates) -> list[np.ndarray]:
        """Returns the outputs with given gates for each site."""
        key = _digest(samples) + _digest(gates)
        if key not in self._outputs:
            self._outputs[key] = self._reference.outputs(samples, gates)
        return self._outputs[key]

    def replay(self, name: str, maps: np.ndarray) -> np.ndarray | None:
        """Returns the gates of a site for other maps."""
        return self._reference.replay(name, maps)

    def matched(self, file: TFLiteModel, samples: Samples) -> Mapping[str, str]:
        """Returns the names of the sites in a file by those in the reference."""
        return self._reference.matched(file, samples)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
