"""The public API of Keras and TensorFlow only, read from the source.

No `keras.src`, no `tf.keras`, no `keras_tuner.src`, no unsafe loading, and no attribute with a
leading underscore but one of our own: an attribute that the same file defines.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# LiteRT has no public list of the operations that its delegate took.
# TensorFlow decides at the first use which Keras it means, before tfmot has changed its mind.
EXCEPTIONS = {
    ("keras_se/litert/devices/delegation.py", "interpreter._get_ops_details"),
    ("keras_se/compress/tfmot/bridge/environment.py", "load_tensorflow().keras"),
    ("keras_se/compress/tfmot/bridge/environment.py", "load_tensorflow().keras.Model"),
}
FORBIDDEN_MODULES = ("keras.src", "keras_tuner.src", "tensorflow.keras", "tensorflow.python")


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def faults(source, path=""):
    tree = ast.parse(source)
    defined = _defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [re.sub(r"^(tf|load_tensorflow\(\))\.", "tensorflow.", ast.unparse(node))]
            if (path, ast.unparse(node)) in EXCEPTIONS:
                continue
            if is_private(node.attr) and node.attr not in defined:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.keyword) and node.arg == "safe_mode":
            yield f"line {node.value.lineno}: safe_mode"
            continue
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            names = []
            value = node.args[1]
            if isinstance(value, ast.Constant) and is_private(str(value.value)):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        else:
            continue
        for name in names:
            if any(name == m or name.startswith(f"{m}.") for m in FORBIDDEN_MODULES):
                yield f"line {node.lineno}: {name}"


def _defined(tree):
    """Methods, assigned attributes of `self`, and names at module or class level."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            names.add(node.attr)
    return names


@pytest.mark.parametrize("folder", ["keras_se", "tuning", "examples", "benchmarks"])
def test_only_public_api(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert list(faults(path.read_text(), path.relative_to(ROOT).as_posix())) == [], path


def test_the_exceptions_are_needed_and_hold_nowhere_else():
    for path, expression in EXCEPTIONS:
        assert expression in (ROOT / path).read_text()
        assert list(faults(expression, "keras_se/sites/reading.py"))


@pytest.mark.parametrize(
    "source",
    [
        "from keras.src.ops import core",
        "import keras.src",
        "from keras import src",
        "import tensorflow as tf\ntf.keras.Model()",
        "load_tensorflow().keras",
        "from tensorflow import keras",
        "import keras_tuner.src.engine",
        "model._functional",
        "class A:\n    def f(self):\n        return self._inbound_nodes",
        "getattr(layer, '_inbound_nodes')",
        "keras.saving.load_model(p, safe_mode=False)",
    ],
)
def test_this_guard_can_fail(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "import keras\nkeras.ops.mean(1)",
        "class A:\n    def f(self):\n        self._x = 1\n        return self._x",
        "class A:\n    def _f(self):\n        return self._f()",
        "import tensorflow as tf\ntf.lite.TFLiteConverter",
        "getattr(function, '__qualname__')",
    ],
)
def test_what_is_allowed(source):
    assert list(faults(source)) == []
