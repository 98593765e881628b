"""Descriptions of the user's objects in plain values, the same in every process."""

import ast
import dis
import functools
import hashlib
import inspect
import json
import operator
import os
import textwrap
import types
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.importable import import_object, is_reference, qualified_name, reference_to

# Objects of these packages have too much internal state to describe.
_OTHERS = ("tensorflow", "jax", "torch", "numpy")


def describe(value: Any, depth: int = 6, seen: dict[int, Any] | None = None) -> Any:
    """Returns JSON values that differ if the behavior of `value` differs, as far as visible."""
    if value is None or isinstance(value, bool | int | float):
        return value
    seen = {} if seen is None else seen
    if isinstance(value, str):
        with suppress(InputError):  # a plain text with a colon
            # A function and its "module:name" must have one description.
            if is_reference(value):
                return describe(import_object("a job", value), depth)
        return value
    # Objects may refer to each other in cycles: each is described once, and not too deep.
    if depth == 0 or inspect.ismodule(value) or id(value) in seen:
        return qualified_name(value)
    inner = functools.partial(describe, depth=depth - 1, seen=seen)
    if isinstance(value, Mapping):
        return {str(k): inner(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(inner(v), sort_keys=True) for v in value)
    if isinstance(value, functools.partial):
        return {"partial": [inner(v) for v in (value.func, value.args, value.keywords)]}
    # To hash the content, all data would have to be read, which takes too long.
    if hasattr(value, "element_spec"):
        return {"dataset": str(value.element_spec), "cardinality": int(value.cardinality())}
    if hasattr(value, "__array__"):
        try:
            return {"array": hash_of_arrays(value)}
        except Exception:  # a tensor of strings or of other objects
            return {"array": qualified_name(value)}
    # Keeps the object alive too: Python would give its id to another one.
    seen[id(value)] = value
    if isinstance(value, types.MethodType):
        return {"method": [inner(value.__self__), inner(value.__func__)]}
    if isinstance(value, types.FunctionType):
        held = [inner(content) for content in _closure(value)]
        holds = [held, inner(value.__defaults__), inner(value.__kwdefaults__)]
        return {"function": value.__qualname__, "source": source_hash(value), "holds": holds}
    return _describe_object(value, inner)


def _closure(function: types.FunctionType) -> list[Any]:
    values = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the variable is not assigned yet
            values.append(cell.cell_contents)
    return values


def _describe_object(value: Any, inner: Any) -> dict[str, Any]:
    if inspect.isclass(value):
        return {"class": value.__qualname__, "source": source_hash(value)}
    content = {"object": qualified_name(value), "source": source_hash(value)}
    if isinstance(value, keras.Model):
        weights = hash_of_arrays(value.get_weights())
        return {**content, "graph": graph_hash(value), "weights": weights}
    package = type(value).__module__.partition(".")[0]
    if package == "keras" and hasattr(value, "get_config"):
        # Keras numbers the names of its objects: "adam", "adam_1".
        config = {k: inner(v) for k, v in value.get_config().items() if k != "name"}
        # Configs of losses omit some arguments, which they keep in a dict.
        if isinstance(value, keras.losses.Loss):
            config["holds"] = [inner(v) for v in vars(value).values() if isinstance(v, dict)]
        return {**content, "config": config}
    attributes = {} if package in _OTHERS else getattr(value, "__dict__", {})
    return {**content, "holds": {name: inner(v) for name, v in attributes.items()}}


def source_hash(function: Any) -> str:
    """Returns a hash of what a source does: that of the module of a name, else of the object."""
    reference = reference_to(function)
    target = import_object("source", reference) if reference else function
    if not hasattr(target, "__code__") and not inspect.isclass(target):
        target = type(target)
    # A named function may call others of its module, so a change there counts.
    if reference:
        target = inspect.getmodule(target)
    text = _tree_of(target) or qualified_name(target) + _code(_compiled(target))
    return hashlib.sha256(text.encode()).hexdigest()


def _tree_of(target: Any) -> str | None:
    code = getattr(target, "__code__", None)
    # From 3.13 on Python knows the text of `python -c`, and no other process does.
    if code is not None and not os.path.exists(code.co_filename):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target)))
    # Defined in an interactive session; or no whole statement, as of some lambdas.
    except (OSError, TypeError, SyntaxError):
        return None
    # From 3.13 on Python takes a class that was typed into an interpreter to be at its line of the
    # file that runs as `__main__`, where anything may be.
    names = [getattr(statement, "name", None) for statement in tree.body]
    if inspect.isclass(target) and names != [target.__name__]:
        return None
    return _tree(tree)


def _compiled(target: Any) -> Any:
    """Returns the code of a function, or of the methods of a class by name."""
    if not inspect.isclass(target):
        return getattr(target, "__code__", None)
    methods = {n: m.__code__ for n, m in vars(target).items() if hasattr(m, "__code__")}
    return tuple(sorted(methods.items(), key=operator.itemgetter(0)))


def _tree(tree: ast.Module) -> str:
    """Returns what a source does: without comments, layout and docstrings."""
    for node in ast.walk(tree):
        has_doc = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, has_doc) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


def _code(value: Any) -> str:
    # The repr of code has an address, that of a frozenset no fixed order, and the bytes of code
    # change where Python specializes them.
    if isinstance(value, frozenset):
        return f"{{{sorted(map(_code, value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_code, value))})"
    if not inspect.iscode(value):
        return repr(value)
    steps = [f"{step.opname} {_code(step.argval)}" for step in dis.get_instructions(value)]
    return f"{value.co_varnames} {steps} {_code(value.co_consts)}"


def graph_hash(model: keras.Model) -> str:
    """Returns a hash of layers and connections that ignores the names of layers."""
    try:
        content = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):  # a subclass without a config
        return source_hash(type(model))
    names: dict[str, str] = {}
    _collect_names(content, names)
    return hashlib.sha256(json.dumps(_renamed(content, names)).encode()).hexdigest()


def _collect_names(content: Any, names: dict[str, str]) -> None:
    parts = content.values() if isinstance(content, dict) else content
    if isinstance(content, dict) and isinstance(content.get("name"), str):
        names.setdefault(content["name"], f"layer {len(names)}")
    for part in parts if isinstance(content, dict | list) else ():
        _collect_names(part, names)


def _renamed(content: Any, names: Mapping[str, str]) -> Any:
    if isinstance(content, dict):
        return {key: _renamed(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [_renamed(value, names) for value in content]
    return names.get(content, content) if isinstance(content, str) else content


def hash_of_arrays(arrays: Any) -> str:
    """Returns a hash of dtypes, shapes, contents and places in the structure."""
    digest = hashlib.sha256()
    for path, value in keras.tree.flatten_with_path(arrays):
        # `ascontiguousarray` turns a scalar into shape (1,), hence `np.shape(value)` below.
        array = np.ascontiguousarray(() if value is None else value)
        # The buffer of an object array holds addresses.
        if array.dtype.hasobject:
            digest.update(json.dumps(array.tolist(), default=str).encode())
            continue
        digest.update(f"{path}{value is None}{array.dtype.str}{np.shape(value)}".encode())
        digest.update(array.view("uint8").data if array.size else b"")
    return digest.hexdigest()
