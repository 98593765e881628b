"""What a verdict needs of a reference, whether it is a Keras model or a float file."""

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
