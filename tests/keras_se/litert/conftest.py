"""The files of the small networks, each converted once."""

import keras
import pytest

from keras_se import to_tflite
from keras_se.litert.formats import FORMATS


class Files(dict):
    """By gate and format, the file of a network; converted when it is first asked for."""

    def __init__(self, networks, images):
        super().__init__()
        self.networks, self.images = networks, images

    def __missing__(self, key):
        gate, name = key
        keras.utils.set_random_seed(0)
        calibration = self.images[100:] if FORMATS[name].needs_calibration else None
        self[key] = to_tflite(self.networks[gate], name, calibration)
        return self[key]


@pytest.fixture(scope="session")
def files(networks, images):
    return Files(networks, images)
