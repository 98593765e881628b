"""A job on its way to other processes: functions by value, models with their classes.

Arrays go beside the pickle, into files that all processes of a machine map instead of copying them.
"""

import importlib
import io
import os
import pickle
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

_LARGE = 1 << 20  # bytes of an array that is worth a file
_OURS = ("keras", "keras_se", "tuning")

_opened: dict[str, Any] = {}  # the job that this process has loaded, by its place


@dataclass(frozen=True)
class Parcel:
    """A pickled job.

    Attributes:
        id: Different for each parcel.
        content: The pickle.
        buffers: The large arrays.
    """

    id: str
    content: bytes = field(repr=False)
    buffers: Sequence[Any] = field(repr=False)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Older protocols copy; Dask sends the buffers as they are.
        wrap: Callable[[Any], Any] = pickle.PickleBuffer if protocol >= 5 else bytes
        return Parcel, (self.id, self.content, [wrap(buffer) for buffer in self.buffers])

    def unpack(self, folder: Path) -> str:
        """Writes the parcel where `opened` finds it, once; returns the place."""
        place = folder / self.id
        if not place.exists():
            new = Path(tempfile.mkdtemp(dir=folder))
            (new / "job.pkl").write_bytes(self.content)
            for number, buffer in enumerate(self.buffers):
                (new / f"{number}.bin").write_bytes(buffer)
            with suppress(OSError):  # another thread was first
                new.rename(place)
        return str(place)


def opened(place: str) -> Any:
    """Returns the job at a place, which this process loads once."""
    if place not in _opened:
        _opened.clear()
        files = sorted(Path(place).glob("*.bin"), key=lambda path: int(path.stem))
        # "c": what a trial writes into its arrays is its own.
        maps = [np.memmap(file, mode="c") for file in files]
        content = Path(place, "job.pkl").read_bytes()
        # Our own parent wrote it, into a folder that only this user can write.
        _, _opened[place] = pickle.loads(content, buffers=maps)  # noqa: S301
    return _opened[place]


def pack(job: Any, modules: Sequence[str] = (), *, alone: bool = False) -> Parcel:
    """Pickles a job; `alone`: for machines that lack the user's own modules."""
    from keras_se.errors import InputError, reason

    file, buffers = io.BytesIO(), []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= _LARGE:
            buffers.append(view)
        return view.nbytes < _LARGE

    pickler = _Pickler(file, protocol=5, buffer_callback=is_small)
    try:
        with _by_value(_own_modules() if alone else ()):
            # First what the models of the job need when they are loaded.
            pickler.dump((_Registered(() if alone else modules), job))
    except InputError:
        raise
    except Exception as error:  # pickling calls code of the user
        raise InputError(
            "With workers a job travels to other processes, so cloudpickle must take what its "
            f"functions and objects hold. Received: {type(error).__name__}: {reason(error)}"
        ) from error
    return Parcel(uuid.uuid4().hex, file.getvalue(), buffers)


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        import keras

        if hasattr(type(value), "element_spec"):
            from keras_se.errors import InputError

            raise InputError(
                "A tf.data.Dataset does not travel to the processes of workers: give a function "
                f"that returns it. Received: {value!r}"
            )
        if isinstance(value, keras.layers.Layer | keras.metrics.Metric | keras.Optimizer):
            function, *rest = value.__reduce_ex__(5)
            if len(rest) == 1:  # the `.keras` format of Keras
                return _restored, (_own_objects(value), function, *rest[0])
        return super().reducer_override(value)


def _restored(objects: dict[str, Any], function: Any, *arguments: Any) -> Any:
    import keras

    with keras.saving.custom_object_scope(objects):
        return function(*arguments)


def _own_objects(value: Any) -> dict[str, Any]:
    """Returns the classes and functions without registration that loading an object needs."""
    import keras

    from keras_se.graph.models import sublayers

    layers = [value, *sublayers(value)] if isinstance(value, keras.layers.Layer) else [value]
    parts = [part for layer in layers for part in (layer, *vars(layer).values())]
    parts += keras.tree.flatten(getattr(value, "loss", None))
    found = {}
    for part in parts:
        named = part if hasattr(part, "__name__") else type(part)
        is_keras = hasattr(part, "get_config") or (callable(part) and hasattr(part, "__name__"))
        if is_keras and named.__module__.partition(".")[0] != "keras":
            found[named.__name__] = found[keras.saving.get_registered_name(named)] = named
    return found


class _Registered:
    """When unpickled, imports modules and registers what this process has registered."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)

    def __reduce__(self) -> tuple[Any, ...]:
        import keras

        names = {"__main__", *(module.__name__ for module in _own_modules())}
        own = {
            name: cloudpickle.dumps(value)
            for name, value in keras.saving.get_custom_objects().items()
            if getattr(value, "__module__", None) in names
        }
        return _register, (self._modules, own)


def _register(modules: Sequence[str], own: dict[str, bytes]) -> None:
    import keras

    for module in modules:
        importlib.import_module(module)
    for key, value in own.items():
        package, _, name = key.rpartition(">")
        # Whether the job needs one whose module is not there is seen when the job is loaded.
        with suppress(ImportError):
            register = keras.saving.register_keras_serializable(package or "Custom", name)
            register(pickle.loads(value))  # noqa: S301 (part of the job)


@contextmanager
def _by_value(modules: Sequence[ModuleType]) -> Iterator[None]:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _own_modules() -> list[ModuleType]:
    """Returns the modules of the user, which no package manager has installed."""
    installed = {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in (*_OURS, "__main__", "__mp_main__")
        and (file := getattr(module, "__file__", None)) is not None
        and not any(os.path.realpath(file).startswith(path + os.sep) for path in installed)
        and not {"site-packages", "dist-packages"} & set(Path(file).parts)
        and module.__name__ == name
    ]
