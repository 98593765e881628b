import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.graph.inputs import input_shapes


def test_the_names_are_those_that_the_model_takes():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    assert input_shapes(keras.Model([a, b], joined)) == {"a": (4,), "b": (2,)}
    model = keras.Model({"b": b, "a": a}, joined)
    shapes = input_shapes(model)
    assert shapes == {"a": (4,), "b": (2,)}
    model({name: np.zeros((1, *shape)) for name, shape in shapes.items()})


def test_nested_inputs_are_refused():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "q": {"b": b}}, keras.layers.Concatenate()([a, b]))
    with pytest.raises(InputError, match=r"not nested ones.* with inputs \['a', 'q'\]"):
        input_shapes(model)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(InputError, match="needs a built model"):
        input_shapes(keras.Sequential([keras.layers.Dense(2)]))
