import functools
import json
import os.path
import sys

import pytest

from keras_se.errors import InputError
from keras_se.importable import import_object, is_reference, qualified_name, reference_to

MODULE = __name__


def data():
    return 1


class Loader:
    class Inner:
        @staticmethod
        def load():
            return 2

    @classmethod
    def made(cls):
        return 3

    def bound(self):
        return 4

    def __call__(self):
        return 5


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Pytest imports this file by its path, under a name that it does not always register."""
    monkeypatch.setitem(
        sys.modules, MODULE, sys.modules.get(MODULE) or sys.modules[data.__module__]
    )


@pytest.mark.parametrize(
    "value", ["json:dumps", "a.b.c:d.e", "_a:_b", "os.path:join", "tuning.commands.demo:digits"]
)
def test_references(value):
    assert is_reference(value)
    assert reference_to(value) == value


TEXTS = (
    "json",
    "json.dumps",
    "a.npz",
    "a/b:c",
    "C:\\data.npz",
    "a:b:c",
    ":a",
    "a:",
    "a.:b",
    "1a:b",
)


@pytest.mark.parametrize(
    "value", [*TEXTS, "a:b\n", " a:b", "a b:c", "", None, 3, b"a:b", data, ("a:b",)]
)
def test_no_references(value):
    assert not is_reference(value)
    message = r"data must have the form package.module:name. Received: data="
    with pytest.raises(InputError, match=message):
        import_object("data", value)


def test_import_object():
    assert import_object("loss", "json:dumps") is json.dumps
    assert import_object("loss", "os.path:join") is os.path.join
    assert import_object("loss", f"{MODULE}:Loader.Inner.load")() == 2


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("no_such_package:f", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("json:no_such", "AttributeError: module 'json' has no attribute 'no_such'"),
        ("json:dumps.no_such", "AttributeError: .*no_such"),
        ("broken_by_error:f", "ZeroDivisionError: division by zero"),
        ("broken_by_exit:f", "SystemExit: 3"),
        ("broken_by_syntax:f", "SyntaxError: "),
    ],
)
def test_what_cannot_be_imported(tmp_path, monkeypatch, reference, why):
    (tmp_path / "broken_by_error.py").write_text("1 / 0")
    (tmp_path / "broken_by_exit.py").write_text("raise SystemExit(3)")
    (tmp_path / "broken_by_syntax.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    message = rf"must be importable. Received: '{reference}', which raises {why}"
    with pytest.raises(InputError, match=f"data given as package.module:name {message}") as caught:
        import_object("data", reference)
    assert caught.value.__cause__ is not None


def test_reference_to_what_has_one():
    assert reference_to(data) == f"{MODULE}:data"
    assert reference_to(Loader) == f"{MODULE}:Loader"
    assert reference_to(Loader.Inner.load) == f"{MODULE}:Loader.Inner.load"
    assert reference_to(Loader.made) == f"{MODULE}:Loader.made"
    for value in (data, Loader, Loader.Inner.load, Loader.made, json.dumps, len):
        assert import_object("data", reference_to(value)) == value


def inner():
    def local():
        return 1

    return local


@pytest.mark.parametrize(
    "value",
    [lambda: 1, inner(), Loader(), Loader().bound, functools.partial(data), 3, None, "a.npz", [1]],
)
def test_reference_to_what_has_none(value):
    assert reference_to(value) is None


def test_a_function_of_a_script_has_none(monkeypatch):
    monkeypatch.setattr(data, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "data", data, raising=False)
    assert reference_to(data) is None


def test_a_name_that_means_another_object_by_now(monkeypatch):
    old = data
    monkeypatch.setattr(sys.modules[MODULE], "data", inner)
    assert reference_to(old) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (data, "data"),
        (Loader.Inner, "Loader.Inner"),
        (Loader(), "Loader"),
        (Loader().bound, "Loader.bound"),
        (3, "int"),
        (functools.partial(data), "partial"),
        (inner(), "inner.<locals>.local"),
    ],
)
def test_qualified_names(value, name):
    assert qualified_name(value) == name
