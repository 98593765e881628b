"""What a recorded graph says of a model."""

import keras
import pytest
from keras import layers

from keras_se.errors import InputError
from keras_se.graph.models import is_graph, is_nested_graph, sublayers
from keras_se.graph.trace import Graph


def network():
    i = keras.Input((8, 8, 4))
    inner = keras.Model(i, layers.Conv2D(4, 1)(i), name="inner")
    inputs = keras.Input((8, 8, 4))
    x = layers.ReLU(name="relu")(inner(inputs))
    return keras.Model(inputs, [inner(x) + x, x])


def test_producers_consumers_and_outputs():
    graph = Graph(network())
    assert [call.layer.name for call in graph.calls][:3] == ["inner", "relu", "inner"]
    (x,) = graph.calls[1].outputs
    assert graph.producers[id(x)] == 1
    assert graph.producer_name(id(x)) == "relu"
    assert graph.producer_name(graph.calls[0].inputs[0]) == ""
    assert [n for n, _ in graph.consumers[id(x)]] == [2, 3]
    assert graph.is_output(x)
    assert not graph.is_output(graph.calls[0].outputs[0])
    assert graph.sole_consumer(0) == 1
    assert graph.sole_consumer(1) is None  # two consumers, and an output
    assert graph.ancestors[3] == {0, 1, 2, 3}
    assert [tuple(t.shape) for t in keras.tree.flatten(graph.outputs)] == [(None, 8, 8, 4)] * 2


def test_nested_graphs_are_recorded_once():
    graph = Graph(network())
    assert list(graph.nested) == [0]
    assert [part.path for part in graph.family()] == ["", "inner/"]
    assert graph.inside(2) is graph.inside(0) is graph.nested[0]
    assert graph.inside(1) is None


def test_a_model_nested_at_two_levels_belongs_to_the_upper_one_whoever_asks_first():
    i = keras.Input((8, 8, 4))
    inner = keras.Model(i, layers.ReLU()(i), name="inner")
    outer = keras.Model(i, inner(i), name="outer")
    model = keras.Model(i, inner(outer(i)))
    asked_first = Graph(model)
    assert asked_first.inside(0).inside(0).path == "inner/"
    for graph in (asked_first, Graph(model)):
        assert [part.path for part in graph.family()] == ["", "outer/", "inner/"]


def test_other_shapes_of_an_example():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    (output,) = Graph(model, [(8, 8, 4)]).calls[-1].outputs
    assert tuple(output.shape) == (None, 6, 6, 4)
    with pytest.raises(InputError, match=r"\(None, None, 4\)\. Received: input_shape=\(8, 8, 3\)"):
        Graph(model, [(8, 8, 3)])


def test_recording_calls_no_layer(monkeypatch):
    calls, model = [], network()
    monkeypatch.setattr(layers.Conv2D, "call", lambda self, x: calls.append(x))
    assert len(Graph(model).inside(0).calls) == 1
    assert calls == []


def test_what_is_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    i = keras.Input((2,))
    several = keras.Sequential([layers.Add()])
    several([keras.ops.ones((1, 2)), keras.ops.ones((1, 2))])
    assert is_graph(keras.Sequential([keras.Input((2,))]))
    assert is_graph(keras.Model(i, i * 2.0))
    assert not any(map(is_graph, (Own(), layers.Dense(2), None)))
    assert is_graph(several)
    assert not is_nested_graph(several)


def test_sublayers_at_any_depth_each_once():
    dense = layers.Dense(2, name="dense")

    class Holder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.parts = [dense, {"again": dense}]
            self.wrapped = layers.TimeDistributed(layers.ReLU(name="relu"), name="wrapped")

    assert [part.name for part in sublayers(Holder())] == ["dense", "wrapped", "relu"]
