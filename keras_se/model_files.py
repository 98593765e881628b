"""Loading and serialization of `.keras` files."""

import tempfile
import zipfile
from pathlib import Path

import keras

from keras_se.errors import InputError


def load_model(path: str) -> keras.Model:
    """Load a `.keras` file in safe mode."""
    if not Path(path).is_file():
        raise InputError(f"A model must be an existing .keras file. Received: {path!r}")
    # `load_model` of Keras also takes HDF5 files, by their suffix.
    if not path.endswith(".keras") or not zipfile.is_zipfile(path):
        raise InputError(
            "A model must be a .keras file, a zip archive that model.save wrote. "
            f"Received: {path!r}, which is not"
        )
    try:
        # Safe mode is the default: Keras refuses files that hold Python code, such as a Lambda.
        return keras.saving.load_model(path)
    except Exception as error:  # Keras gives zip, HDF5, JSON and its own errors for a bad file
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            "A model must be a .keras file that Keras loads in safe mode, with --import for custom "
            f"layers. Received: {path!r}, which gives: {first_line}"
        ) from error


def model_bytes(model: keras.Model) -> bytes:
    """Serialize a model to the bytes of a `.keras` file."""
    # `Model.save` writes to a path only, and takes the format from its suffix.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()
