"""What an object of the user's is made of, in plain values that are the same in every process."""

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
from tuning.references import is_reference, qualified_name, reference_to, resolve

_DEPTH = 6
_OTHERS = ("tensorflow", "jax", "torch", "numpy")  # whose objects hold more than can be told


def described(value: Any, depth: int = _DEPTH, seen: dict[int, Any] | None = None) -> Any:
    """Plain values that differ where what the value does differs, as far as that can be seen.

    Args:
        value: Plain values, arrays, functions (with defaults and what they close over), partials,
            objects (with their attributes), or references.
        depth: How deep objects within objects are looked into.
        seen: Objects that were met before, by id: each is looked into once.

    Returns:
        Values that JSON holds, without addresses and without the numbers in Keras's names.

    Example:
        >>> def scaled(factor):
        ...     return lambda x: factor * x
        >>> [described(scaled(2)) == described(scaled(n)) for n in (2, 3)]
        [True, False]
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    seen = {} if seen is None else seen
    if isinstance(value, str):
        return _described_text(value, depth)
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
    if hasattr(value, "element_spec"):
        return {"dataset": str(value.element_spec), "cardinality": int(value.cardinality())}
    if hasattr(value, "__array__"):
        return {"array": _array_hash(value)}
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
    """A reference is what it refers to, given by name or not."""
    try:
        return described(resolve("a job", value), depth) if is_reference(value) else value
    except InputError:  # a text with a colon
        return value


def _described_object(value: Any, inner: Any) -> dict[str, Any]:
    if inspect.isclass(value):
        return {"class": value.__qualname__, "source": source_hash(value)}
    content = {"object": qualified_name(value), "source": source_hash(value)}
    if isinstance(value, keras.Model):
        weights = hash_of_arrays(value.get_weights())
        return {**content, "graph": graph_hash(value), "weights": weights}
    if type(value).__module__.startswith("keras.") and hasattr(value, "get_config"):
        config = {k: inner(v) for k, v in value.get_config().items() if k != "name"}
        if isinstance(value, keras.losses.Loss):  # whose configurations leave arguments out
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
    except Exception:  # a tensor of something that is no number
        return qualified_name(value)


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not assigned yet
        return False


def source_hash(function: Any) -> str:
    """A hash of where a function is written: its module if it has a name there, else itself.

    Args:
        function: A function, an object of a class, or `package.module:name`.

    Returns:
        Hexadecimal digits.

    Example:
        >>> len(source_hash("json:dumps"))
        64
    """
    if isinstance(function, functools.partial):
        return hashlib.sha256(json.dumps(described(function)).encode()).hexdigest()
    reference = reference_to(function)
    target = resolve("source", reference) if reference else function
    if not hasattr(target, "__code__") and not inspect.isclass(target):
        target = type(target)
    if reference:
        target = inspect.getmodule(target)
    try:
        text = inspect.getsource(target)
    except (OSError, TypeError):  # typed into an interpreter
        code = target.__code__ if hasattr(target, "__code__") else None
        text = qualified_name(target) + _code(code)
    return hashlib.sha256(text.encode()).hexdigest()


def _code(value: Any) -> str:
    """What a function was compiled to, the same in every process: no address, no order of sets."""
    if isinstance(value, frozenset):
        return str(sorted(map(_code, value)))
    if not inspect.iscode(value):
        return repr(value)
    constants = [_code(constant) for constant in value.co_consts]
    return f"{value.co_code!r} {value.co_names} {value.co_varnames} {constants}"


def graph_hash(model: keras.Model) -> str:
    """A hash of layers and connections, whatever number Keras put behind the names of the layers.

    Args:
        model: A model.

    Returns:
        Hexadecimal digits; of a model without a configuration, a hash of its class.
    """
    try:
        content = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):  # a subclass
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
    """A hash of types, shapes, contents and places in the structure.

    Args:
        arrays: Arrays in any structure.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, value in keras.tree.flatten_with_path(arrays):
        array = np.ascontiguousarray(() if value is None else value)
        if array.dtype.hasobject:
            digest.update(json.dumps(array.tolist(), default=str).encode())
            continue
        digest.update(f"{path}{value is None}{array.dtype.str}{np.shape(value)}".encode())
        digest.update(array.view("uint8").data if array.size else b"")
    return digest.hexdigest()
