import functools
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuning.trials.fingerprint import described, graph_hash


def closing(value):
    def function(x=0):
        return x, value

    return function


class Holder:
    def __init__(self, value):
        self._hidden = value

    def method(self):
        return self._hidden


def network(units=2, activation="relu"):
    layers = [keras.layers.Dense(units), keras.layers.Activation(activation)]
    return keras.Sequential([keras.Input((3,)), *layers])


PAIRS = {
    "numbers": (1, 2),
    "lists": ([1, 2], [2, 1]),
    "keys": ({"a": 1}, {"b": 1}),
    "arrays": (np.zeros(2000), np.arange(2000) == 1000),
    "closures": (closing(1), closing(2)),
    "closures within": (closing(closing(1)), closing(closing(2))),
    "closed arrays": (closing(np.zeros(9)), closing(np.ones(9))),
    "partials": (functools.partial(closing, 1), functools.partial(closing, 2)),
    "partials of arrays": tuple(functools.partial(closing, np.full(2000, n)) for n in (1, 2)),
    "objects": (Holder(1), Holder(2)),
    "methods": (Holder(1).method, Holder(2).method),
    "functions": (closing, network),
    "classes": (Holder, int),
    "sets": ({1, 2}, {1, 3}),
    "optimizers": (keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)),
    "losses": (keras.losses.Huber(1.0), keras.losses.Huber(2.0)),
    "callbacks": tuple(
        keras.callbacks.LearningRateScheduler(lambda epoch, rate=rate: rate) for rate in (1, 2)
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_differs_and_what_does_not(kind):
    one, other = PAIRS[kind]
    assert described(one) == described(one)
    assert described(one) != described(other)


def test_the_same_things_made_twice():
    assert described(closing(closing([1]))) == described(closing(closing([1])))
    assert described(Holder({"a": 1})) == described(Holder({"a": 1}))
    assert described(keras.optimizers.Adam(0.1)) == described(keras.optimizers.Adam(0.1))


def test_a_reference_is_what_it_refers_to():
    assert described("json:dumps") == described(__import__("json").dumps)
    assert described("no.module:here") == "no.module:here"
    assert described("a: text") == "a: text"


def test_what_goes_in_circles_ends():
    holder = Holder(None)
    holder._hidden = [holder, closing(holder)]
    assert described(holder) == described(holder)


def test_graphs_whatever_their_names():
    first, second = network(), network()
    assert first.layers[0].name != second.layers[0].name
    assert graph_hash(first) == graph_hash(second)
    assert graph_hash(first) != graph_hash(network(3))
    assert graph_hash(first) != graph_hash(network(activation="tanh"))


def test_another_process_says_the_same():
    text = (
        "import json, functools\nfrom tuning.trials.fingerprint import described\n"
        "def f(x, y={1, 'a', (2, 3)}):\n    return [{'b', 'c'} for _ in x]\n"
        "print(json.dumps(described(functools.partial(f, object))))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_what_cannot_be_looked_into_is_named():
    dataset = tf.data.Dataset.range(8).batch(2)
    assert described(closing(dataset)) == described(closing(tf.data.Dataset.range(8).batch(2)))
    assert described(closing(dataset)) != described(closing(dataset.take(1)))
    symbolic = keras.Input((3,))
    for thing in (tf.constant(["a"]), symbolic, tf.Variable(1.0), open, threading.Lock(), object()):
        assert described(closing(thing)) == described(closing(thing))


def test_many_objects_that_know_each_other_take_no_time():
    crowd = [Holder(None) for _ in range(300)]
    for one in crowd:
        one._hidden = crowd
    started = time.perf_counter()
    described(crowd)
    assert time.perf_counter() - started < 5
