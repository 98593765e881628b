"""Reads dataclasses from the plain values that JSON gave, and believes no type."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def from_plain(kind: Any, value: Any, name: str = "it") -> Any:
    """Returns a value of an annotated type from plain values; raises `ValueError` for others."""
    if kind is Any:
        return value
    if get_origin(kind) in (Union, types.UnionType):  # all ours are of one type or None
        kinds = [each for each in get_args(kind) if each is not types.NoneType]
        return None if value is None else from_plain(kinds[0], value, name)
    if kind in _PLAIN:
        return _plain(kind, value, name)
    if get_origin(kind) is Literal:
        return _known(value in get_args(kind), value, name, f"one of {get_args(kind)}")
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value, name)
    _known(isinstance(value, Mapping), value, name, "an object")
    if get_origin(kind) is Mapping:
        return {key: from_plain(get_args(kind)[1], v, f"{name}.{key}") for key, v in value.items()}
    return _dataclass(kind, value, name)


def _plain(kind: Any, value: Any, name: str) -> Any:
    if kind is float and value is None:  # JSON has no NaN
        return math.nan
    kinds = (int, float) if kind is float else (kind,)
    # bool is a subclass of int.
    fits = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
    return _known(fits, value, name, _PLAIN[kind])


def _tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    _known(isinstance(value, list | tuple), value, name, "a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    _known(len(kinds) == len(value), value, name, f"a list of {len(kinds)}")
    parts = zip(kinds, value, strict=True)
    return tuple(from_plain(kind, part, f"{name}[{n}]") for n, (kind, part) in enumerate(parts))


def _dataclass(kind: Any, value: Mapping[str, Any], name: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {key for key, field in fields.items() if field.default is dataclasses.MISSING}
    if not needed <= set(value) <= set(fields):
        raise ValueError(f"{name} has other fields than {kind.__name__}")
    return kind(**{key: from_plain(fields[key].type, v, key) for key, v in value.items()})


def _known(fits: bool, value: Any, name: str, rule: str) -> Any:
    if not fits:
        raise ValueError(f"{name} is not {rule}: {str(value)[:60]!r}")
    return value
