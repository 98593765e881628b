"""The layers on other backends of Keras: tests of their own once more, in another process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ROOT / "tests" / "keras_se" / "layers"
COPIES = ROOT / "tests" / "keras_se" / "graph" / "test_copying.py"
# The harness of each kind of layer, a covering set of values, and what depends on the backend.
ONCE_MORE = (
    "harness and arguments0 or test_values and (shape0 or std or ends0)"
    " or identity_init and softmax and shape0 or channels_first and shape0 or half_precision"
    " or no_nodes or batches_of or integer_type or static_number or rounded_weights and conv"
    " or a_block_computes and avg or trained_in_float or under_the_mask"
    " or wrappers_recurrent"  # copies of layers inside layers, which PyTorch keeps apart
)


def needs(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_layers(backend):
    needs(backend)
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", ONCE_MORE]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, LAYERS, COPIES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"},
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:]
    assert " passed" in process.stdout


LOAD = """
import sys
import keras, keras_se, numpy as np
model = keras.saving.load_model(sys.argv[1] + ".keras")
data = np.load(sys.argv[1] + ".npz")
np.testing.assert_allclose(model.predict(data["x"], verbose=0), data["y"], atol=1e-5)
print("tensorflow" in sys.modules, [layer.gate for layer in model.layers])
"""


def test_a_committed_file_loads_in_a_fresh_process_without_tensorflow():
    """`import keras_se` registers the layers; the file was written under TensorFlow."""
    needs("jax")
    process = subprocess.run(
        [sys.executable, "-c", LOAD, LAYERS / "fixtures" / "se_block_0_1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        check=False,
    )
    expected = "False ['sigmoid', 'one_plus_tanh', 'softmax']"
    assert process.stdout.strip() == expected, process.stderr
