import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuning.data.fingerprint import describe, graph_hash, hash_of_arrays, source_hash


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
    assert describe(one) == describe(one)
    assert describe(one) != describe(other)


def test_the_same_things_made_twice():
    assert describe(closing(closing([1]))) == describe(closing(closing([1])))
    assert describe(Holder({"a": 1})) == describe(Holder({"a": 1}))
    assert describe(keras.optimizers.Adam(0.1)) == describe(keras.optimizers.Adam(0.1))


def test_a_reference_is_what_it_refers_to():
    assert describe("json:dumps") == describe(__import__("json").dumps)
    assert describe("no.module:here") == "no.module:here"
    assert describe("a: text") == "a: text"


def test_what_goes_in_circles_ends():
    holder = Holder(None)
    holder._hidden = [holder, closing(holder)]
    assert describe(holder) == describe(holder)


def test_graphs_whatever_their_names():
    first, second = network(), network()
    assert first.layers[0].name != second.layers[0].name
    assert graph_hash(first) == graph_hash(second)
    assert graph_hash(first) != graph_hash(network(3))
    assert graph_hash(first) != graph_hash(network(activation="tanh"))


def typed(text):
    """A function as it is typed into an interpreter: without a source file."""
    names = {"np": np, "__name__": "__main__"}
    exec(text, names)  # noqa: S102
    return names["load"]


def test_functions_typed_into_an_interpreter():
    texts = ["np.sin(1)", "np.cos(1)", "np.sin(2)", "[np.sin(i) for i in range(3)]"]
    texts += ["[np.sin(i) for i in range(4)]", "(lambda: 1)()", "1 in {'a', 'b', 'c'}"]
    functions = [[typed(f"def load(): return {text}") for text in texts] for _ in range(2)]
    hashes = [[source_hash(function) for function in row] for row in functions]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == len(texts)


def test_classes_typed_into_an_interpreter():
    hashes = []
    for value in (1, 2, 1):
        names = {"__name__": "__main__"}
        exec(f"class Own:\n    def build(self): return {value}", names)  # noqa: S102
        hashes.append(source_hash(names["Own"]))
    assert hashes[0] == hashes[2] != hashes[1]


def test_another_process_describes_them_alike():
    text = "def load(x, y={1, 'a', (2, 3)}): return [i in {'a', 'b', 'c', 'd'} for i in x]\n"
    code = (
        f"{text}import functools, json\nfrom tuning.data.fingerprint import describe\n"
        "print(json.dumps(describe(functools.partial(load, object))))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "3", "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == describe(functools.partial(typed(text), object))


def test_the_source_of_a_module_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for n, number in enumerate([1, 2, 1]):
        text = f"def load():\n    return number\n\n\nnumber = {number}\n"
        (tmp_path / f"written_{n}.py").write_text(text)
    one, two, again = (source_hash(f"written_{n}:load") for n in range(3))
    assert one != two
    assert one == again


DOCUMENTED = '''
"""A module."""


class Model:
    """A class."""

    def build(self, x):
        """A method."""
        return x + 1  # a comment


def build(x):
    return Model().build(x)
'''


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ('"""A module."""', "", True),
        ("  # a comment", "", True),
        ('"""A method."""', '"""Another\n        text."""', True),
        ("x + 1", "(x + 1)", True),
        ("    return Model", "\n\n    return Model", True),
        ("x + 1", "x + 2", False),
        ("x + 1", "x - 1", False),
        ("def build(x)", "def build(x, y=1)", False),
    ],
)
def test_a_source_is_what_it_does(tmp_path, monkeypatch, old, new, is_same):
    hashes = []
    for n, text in enumerate((DOCUMENTED, DOCUMENTED.replace(old, new))):
        name = f"documented_{abs(hash((old, new)))}"
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        with monkeypatch.context() as context:
            context.syspath_prepend(folder)
            module = importlib.import_module(name)
            hashes.append((source_hash(module.build), source_hash(module.Model)))
            del sys.modules[name]
        inspect.linecache.clearcache()
    assert (hashes[0] == hashes[1]) == is_same


def test_a_function_without_a_source_has_one_hash_in_all_processes():
    code = (
        "from tuning.data.fingerprint import source_hash\n"
        "names = {}\n"
        'text = \'f = lambda x: x in {"a", "b", "c"} or [y for y in (1, (2, "d"))]\'\n'
        "exec(text, names)\n"
        "for _ in range(99): names['f'](1)\n"
        "print(source_hash(names['f']))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1


def test_the_hash_of_no_arrays():
    nothing = [], [None], [np.zeros(0)], [np.zeros(())]
    assert len({hash_of_arrays(arrays) for arrays in nothing}) == 4
    assert hash_of_arrays([np.float32(1)]) != hash_of_arrays([np.float32(2)])
    assert hash_of_arrays({"a": np.ones(3), "b": 2}) == hash_of_arrays({"b": 2, "a": np.ones(3)})


def test_what_cannot_be_looked_into_is_named():
    dataset = tf.data.Dataset.range(8).batch(2)
    assert describe(closing(dataset)) == describe(closing(tf.data.Dataset.range(8).batch(2)))
    assert describe(closing(dataset)) != describe(closing(dataset.take(1)))
    symbolic = keras.Input((3,))
    for thing in (tf.constant(["a"]), symbolic, tf.Variable(1.0), open, threading.Lock(), object()):
        assert describe(closing(thing)) == describe(closing(thing))


def test_many_objects_that_know_each_other_take_no_time():
    crowd = [Holder(None) for _ in range(100)]
    for one in crowd:
        one._hidden = crowd
    started = time.perf_counter()
    describe(crowd)
    assert time.perf_counter() - started < 5
