"""The layers on the JAX backend of Keras: their own tests once more, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Measured in float64, which Keras under JAX rounds.
NOT_FOR_JAX = "TestFacts or TestSoftmax or stretched_sigmoid"


def test_layers_on_jax():
    pytest.importorskip("jax")
    tests = ROOT / "tests" / "keras_se" / "layers"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tests, "-k", f"not ({NOT_FOR_JAX})",
         "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-4000:]
    assert " passed" in process.stdout


def test_the_layers_import_no_tensorflow():
    code = "import sys, keras_se; print('tensorflow' in sys.modules, keras_se.SEBlock)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )  # fmt: skip
    assert process.stdout.startswith("False"), process.stderr
