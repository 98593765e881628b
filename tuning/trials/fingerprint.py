"""Descriptions of the user's objects in plain values, the same in every process."""

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from tuning.trials.references import is_reference, qualified_name, reference_to, resolve

_DEPTH = 6
# Objects of these packages have too much internal state to describe.
_OTHERS = ("tensorflow", "jax", "torch", "numpy")


def described(value: Any, depth: int = _DEPTH, seen: dict[int, Any] | None = None) -> Any:
    """Returns JSON values that differ if the behavior of `value` differs, as far as visible."""
    if value is None or isinstance(value, bool | int | float):
        return value
    seen = {} if seen is None else seen
    if isinstance(value, str):
        return _described_text(value, depth)
    # Objects may refer to each other in cycles: each is described once, and not too deep.
    if depth == 0 or inspect.ismodule(value) or id(value) in seen:
        return qualified_name(value)
    inner = functools.partial(described, depth=depth - 1, seen=seen)
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
        return {"array": _array_hash(value)}
    # Keeps the object alive too: Python would give its id to another one.
    seen[id(value)] = value
    if isinstance(value, types.MethodType):
        return {"method": [inner(value.__self__), inner(value.__func__)]}
    if isinstance(value, types.FunctionType):
        held = [inner(cell.cell_contents) for cell in value.__closure__ or () if _is_full(cell)]
        return {
            "function": value.__qualname__,
            "source": source_hash(value),
            "holds": [held, inner(value.__defaults__), inner(value.__kwdefaults__)],
        }
    return _described_object(value, inner)


def _described_text(value: str, depth: int) -> Any:
    # A function and its "module:name" must have one description.
    try:
        return described(resolve("a job", value), depth) if is_reference(value) else value
    except InputError:  # a plain text with a colon
        return value


def _described_object(value: Any, inner: Any) -> dict[str, Any]:
    if inspect.isclass(value):
        return {"class": value.__qualname__, "source": source_hash(value)}
    content = {"object": qualified_name(value), "source": source_hash(value)}
    if isinstance(value, keras.Model):
        weights = hash_of_arrays(value.get_weights())
        return {**content, "graph": graph_hash(value), "weights": weights}
    if type(value).__module__.startswith("keras.") and hasattr(value, "get_config"):
        # Keras numbers the names of its objects: "adam", "adam_1".
        config = {k: inner(v) for k, v in value.get_config().items() if k != "name"}
        # Configs of losses omit some arguments, which they keep in a dict.
        if isinstance(value, keras.losses.Loss):
            config["holds"] = [inner(v) for v in vars(value).values() if isinstance(v, dict)]
        return {**content, "config": config}
    is_users = type(value).__module__.partition(".")[0] not in _OTHERS and hasattr(
        value, "__dict__"
    )
    attributes = vars(value) if is_users else {}
    return {**content, "holds": {name: inner(v) for name, v in attributes.items()}}


def _array_hash(value: Any) -> str:
    try:
        return hash_of_arrays(value)
    except Exception:  # a tensor of strings or of other objects
        return qualified_name(value)


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the variable is not assigned yet
        return False


def source_hash(function: Any) -> str:
    """Returns a hash of the source: of the module for a name in a module, else of the object."""
    if isinstance(function, functools.partial):
        return hashlib.sha256(json.dumps(described(function)).encode()).hexdigest()
    reference = reference_to(function)
    target = resolve("source", reference) if reference else function
    if not hasattr(target, "__code__") and not inspect.isclass(target):
        target = type(target)
    # A named function may call others of its module, so a change there counts.
    if reference:
        target = inspect.getmodule(target)
    try:
        text = inspect.getsource(target)
    except (OSError, TypeError):  # no source: defined in an interactive session
        code = target.__code__ if hasattr(target, "__code__") else None
        text = qualified_name(target) + _code(code)
    return hashlib.sha256(text.encode()).hexdigest()


def _code(value: Any) -> str:
    # The repr of code has an address, and that of a frozenset no fixed order.
    if isinstance(value, frozenset):
        return str(sorted(map(_code, value)))
    if not inspect.iscode(value):
        return repr(value)
    constants = [_code(constant) for constant in value.co_consts]
    return f"{value.co_code!r} {value.co_names} {value.co_varnames} {constants}"


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
