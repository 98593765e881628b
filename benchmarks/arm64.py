"""Gates on a phone's processor: LiteRT's own Arm build under QEMU, beside x86-64.

    python benchmarks/arm64.py [--demo runs/demo] [--models FOLDER --data CIFAR10.npz] [--folder F]

Makes the network of `keras-se demo` (`--demo` is its folder), one network for each of the six gates
and MobileNetV3Small (the trained one of `folding.py` with `--models`, else one of random weights
whose gates move), in float32, int8 and int16x8. Each probe is recorded three times: by recorder.py
on aarch64, LiteRT's wheel with XNNPACK's Neon kernels in QEMU's user mode; here with XNNPACK; and
here with the reference kernels. Gates and outputs are compared with those of XNNPACK here: codes in
steps, with the share that differs; floats by their largest difference.

What runs there is kept in `--folder`: QEMU 10 (Debian 13's, as QEMU 7.2 crashes when a file is
loaded), Python 3.11 of Debian 12 for arm64, and the wheels of NumPy and LiteRT. It is downloaded
with apt-get, dpkg and pip. Where that cannot be, the script says what is missing and ends with 0.
Latencies under QEMU mean nothing.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from folding import mobilenet
from peers.others import randomize
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se import SEBlock
from keras_se.data import load_images
from keras_se.errors import InputError
from keras_se.layers.gates import GATES
from keras_se.litert import probe, recorder

FORMATS = ("float32", "int8", "int16x8")
SAMPLES, CALIBRATION = 128, 200
QEMU = ("qemu-user:amd64", "trixie")
PYTHON = tuple(
    f"{name}:arm64"
    for name in (
        *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6"),
        *("libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5"),
    )
)
WHEELS = tuple(  # in the versions of this machine
    f"{name}=={importlib.metadata.version(name)}"
    for name in ("numpy", "flatbuffers", "ai-edge-litert")
)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
APT = """deb [arch=amd64] http://deb.debian.org/debian trixie main
deb [arch=arm64] http://deb.debian.org/debian bookworm main
"""


class MissingError(Exception):
    """What the other processor needs and is not here."""


def call(*words: str | Path, folder: Path) -> None:
    """Runs a program, or raises `MissingError` with the end of what it says."""
    if shutil.which(str(words[0])) is None:
        raise MissingError(f"the program {words[0]}")
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise MissingError(f"what `{words[0]}` was to get; it says: {said}")


def packages(folder: Path) -> None:
    """Unpacks QEMU into `host`, and Python for arm64 into `root`."""
    apt, debs = folder / "apt", folder / "debs"
    for path in (apt / "lists" / "partial", apt / "archives" / "partial", debs):
        path.mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(APT)
    settings = {  # a state of its own: the system's packages stay as they are
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt,
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::TrustedParts": "/usr/share/keyrings",
        "APT::Architecture": "amd64",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    options += ["-oAPT::Architectures::=amd64", "-oAPT::Architectures::=arm64"]
    call("apt-get", *options, "update", folder=debs)
    call("apt-get", *options, "download", QEMU[0], *PYTHON, folder=debs)
    for deb in debs.glob("*.deb"):
        target = folder / ("host" if deb.name.startswith("qemu") else "root")
        call("dpkg", "-x", deb, target, folder=folder)


def wheels(folder: Path) -> None:
    """Unpacks the wheels of NumPy and LiteRT."""
    platforms = [f"--platform={name}" for name in PLATFORMS]
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", *platforms]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder / "wheels"]
    call(*command, *WHEELS, folder=folder)
    for wheel in (folder / "wheels").glob("*.whl"):
        shutil.unpack_archive(wheel, folder / "site", "zip")


def prepare(folder: Path) -> None:
    """Downloads what is not there yet."""
    if not (folder / "host/usr/bin/qemu-aarch64").exists():
        packages(folder)
    if not (folder / "site/ai_edge_litert").exists():
        wheels(folder)


def on_arm(folder: Path, twin: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    """The recording of a probe on aarch64."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copy(recorder.__file__, work / "recorder.py")
        (work / "probe.tflite").write_bytes(twin)
        np.savez(work / "x.npz", x=x)
        python = folder / "root/usr/bin/python3.11"
        words = ("recorder.py", "probe.tflite", "out.npz", "--data", "x.npz")
        done = subprocess.run(
            [folder / "host/usr/bin/qemu-aarch64", "-L", folder / "root", python, *words],
            cwd=work,
            env={**os.environ, "QEMU_CPU": "cortex-a76", "PYTHONPATH": str(folder / "site")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            end = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise MissingError(
                f"a recorder that runs on aarch64: it ends with {done.returncode}, {end}"
            )
        with np.load(work / "out.npz") as archive:
            return dict(archive)


def of_gate(gate: str) -> keras.Model:
    """Two sites whose gates spread over ten steps and more, for the digits."""
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=1.5)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 16)(x)
    for filters in (16, 32):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = SEBlock(4, gate=gate, kernel_initializer=wide)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def networks(
    demo: Path | None, models: Path | None, data: Path | None
) -> Iterator[tuple[str, keras.Model, np.ndarray]]:
    """Networks by name, with their samples."""
    from sklearn.datasets import load_digits

    digits = load_digits().images[..., None].astype("float32")
    if demo is not None:
        yield "demo", keras.saving.load_model(demo / "model.keras"), digits
    for gate in GATES:
        yield gate, of_gate(gate), digits
    path = models and models / "MobileNetV3Small_0.keras"
    if path is not None and data is not None and path.exists():
        yield "MobileNetV3Small, trained", keras.saving.load_model(path), cifar(data)
        return
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (CALIBRATION + SAMPLES, 32, 32, 3))
    images *= rng.uniform(0.2, 1.0, (len(images), 1, 1, 3))
    model = mobilenet(0)
    randomize(model, images[:64].astype("float32"))
    yield "MobileNetV3Small, random", model, images.astype("float32")


def cifar(data: Path) -> np.ndarray:
    """Training images for the calibration, then test images."""
    (train, _), test = load_images(str(data))
    assert test is not None  # noqa: S101 (the data set has them)
    return np.concatenate([test[0][:SAMPLES], train[:CALIBRATION]])


def apart(found: dict[str, np.ndarray], own: dict[str, np.ndarray], prefix: str) -> str:
    """How far outputs are from those of this machine: steps with the share, or floats."""
    names = [n for n in own if n != recorder.NOTES and n.startswith("gate_") == (prefix == "gate")]
    pairs = [(found[name].ravel(), own[name].ravel()) for name in names]
    a, b = (np.concatenate(values).astype("float64") for values in zip(*pairs, strict=True))
    most, share = np.abs(a - b).max(), (a != b).mean()
    if most == 0.0:
        return "equal"
    if own[names[0]].dtype.kind == "f":
        return f"{most:.1e}"
    return f"{most:.0f} {'step' if most == 1 else 'steps'}, {share:.1%}"


def rows(folder: Path, name: str, model: keras.Model, x: np.ndarray) -> Iterator[list[str]]:
    """The table of one network."""
    for format in FORMATS:
        calibration = None if format == "float32" else x[SAMPLES : SAMPLES + CALIBRATION]
        try:
            twin = probe(keras_se.to_tflite(model, format, calibration, check_range=False))
        except InputError as error:
            yield [name, format, f"no file: {str(error).rpartition('says: ')[-1]}", "", "", ""]
            continue
        few = x[:SAMPLES]
        own = recorder.record(twin, {"x": few})
        others = (on_arm(folder, twin, few), recorder.record(twin, {"x": few}, "reference"))
        yield [name, format, *(apart(o, own, what) for o in others for what in ("gate", "output"))]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/arm64"))
    given = parser.parse_args()
    folder, console = given.folder.resolve(), Console(width=140)
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("network", "format", "Arm: gates", "outputs", "reference: gates", "outputs")
    table = Table(*columns, title="Against XNNPACK on x86-64")
    try:
        prepare(folder)
        for name, model, x in networks(given.demo, given.models, given.data):
            for row in rows(folder, name, model, x):
                console.print(*row, sep=" | ", markup=False)
                table.add_row(*row)
    except MissingError as missing:
        print(f"Missing: {missing}. Nothing is measured without it.")
        return
    console.print(table)


if __name__ == "__main__":
    main()
