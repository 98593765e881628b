"""Small networks whose gates move, and images for them; everything here is built once."""

import warnings
from collections.abc import Iterator

import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.errors import PrecisionWarning

_with_xla = keras.Model.jit_compile
# XLA, Keras's default, takes longer to compile a small network than all of its steps take.
if keras.backend.backend() == "tensorflow":
    keras.Model.jit_compile = property(lambda model: False, lambda model, value: None)

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")


# A file that takes a minute must not be the last one.
_LONG = (
    "test_backends.py",
    "test_dask_backend.py",
    "test_deployed_search.py",
    "test_documents.py",
    "test_examples.py",
    "test_killed_search.py",
    "test_loading.py",
    "test_runners.py",
    "test_searching.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first; two workers then end at about the same time."""
    items.sort(key=lambda item: item.path.name not in _LONG)


def build_network(
    gate: str, squeeze: str = "avg", size: tuple[int | None, ...] = (8, 8)
) -> keras.Model:
    """Two SE sites with weights wide enough for gates that spread over ten steps and more."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((*size, 3))
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = SEBlock(
            4,
            gate=gate,
            squeeze=squeeze,
            kernel_initializer=keras.initializers.RandomNormal(stddev=1.5),
            bias_initializer=keras.initializers.RandomNormal(stddev=0.3),
        )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Each test starts from the same seed: now and then a fresh bottleneck is dead on all data."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models compile with XLA where they are told to."""
    monkeypatch.setattr(keras.Model, "jit_compile", _with_xla)


@pytest.fixture
def twins() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that the float32 twin of a model was taken; any other is an error still."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        yield caught


@pytest.fixture(scope="session")
def networks() -> dict[str, keras.Model]:
    return {gate: build_network(gate) for gate in GATES}


@pytest.fixture(scope="session")
def half_network(networks: dict[str, keras.Model]) -> keras.Model:
    """The network with sigmoid gates in mixed_float16, of open sizes, with the same weights."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_network("sigmoid", size=(None, None))
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(networks["sigmoid"].get_weights())
    return model


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """300 images of different brightness, so that average squeezes differ."""
    rng = np.random.default_rng(0)
    return (rng.random((300, 8, 8, 3)) * rng.random((300, 1, 1, 1))).astype("float32")
