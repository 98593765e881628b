"""What a type checker tells a user, who runs `mypy --strict --ignore-missing-imports script.py`.

Keras has no types of its own and is `Any`; ours come from the installed packages (`py.typed`).
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import keras_se
import tuning
from keras_se.layers import gates, squeezes

HEAD = """
import keras
import numpy as np

import keras_se
import tuning
from keras_se import GraphSEBlock, SEBlock, candidates, compress, cost, find_sites, insert, remove

x = np.zeros((8, 8, 8, 3))
base = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3)])
"""
RIGHT = """
block = SEBlock(4, gate="hard_sigmoid", squeeze="max", data_format="channels_first", name="se")
SEBlock(gate=keras.activations.sigmoid, squeeze=lambda x, axis: x, dtype="mixed_float16")
level: float = block.gates(x).mean()
GraphSEBlock(2, squeeze="std", gate="tanh", use_bias=False)
model = insert(base, 4, placement="standard", where="conv", gate="sigmoid", squeeze="avg_max")
insert(base, where=["conv2d"], plan={"se_1": {"ratio": 4}}, dtype="float32")
insert(base, where=lambda layer: bool(layer.trainable))
place = candidates(base, placement="post")[0]
SEBlock(width=place.channels, data_format=place.data_format)
parameters: int = cost(model).parameters
name: str = find_sites(remove(model))[0].name
spread: float = keras_se.read_gates(model, x)[name].std()
data: bytes = keras_se.to_tflite(model, "int8", x)
passed: bool = keras_se.verify(model, data, x).passed
compress.strip(compress.quantize_aware(model, x, engine="keras"))
space = tuning.SESpace((4, 8), gates=("sigmoid",), squeezes=("avg",), placements=("pre",))
result = tuning.search(base, (x, x), (x, x), space, tuning.Cheapest(0.02), epochs=1, directory="a")
ratio: float = space.ratios[0]
"""
WRONG = """
SEBlock(gate="sigmoidd")
SEBlock(squeeze="median")
SEBlock(data_format="NHWC")
SEBlock("4")
SEBlock(bias=False)
block = SEBlock().set_excitation(x, x, x, x, layout="caffe")
GraphSEBlock(squeeze="median")
GraphSEBlock(gate="sigmoidd")
GraphSEBlock(data_format="channels_last")
insert(base, gate="sigmoidd")
insert(base, ratios=4)
insert(base, placement="before")
insert(base, where="convolution")
candidates(base, placement="before")
cost(base).parameter
keras_se.to_tflite(base, "int4", x)
keras_se.to_tflite(base, "int8", x, input_type="int4")
keras_se.verify(base, 4, x)
compress.quantize_aware(base, x, engine="keras2")
compress.quantize_aware(base, x, preserve="zeros")
compress.prune(base, schedule="linear")
compress.cluster(base, scope="head")
tuning.SESpace(gates=("sigmoidd",))
tuning.SESpace(squeezes=("median",))
tuning.SESpace(placements=("before",))
tuning.SESpace(per="layer")
tuning.search(base, x, epochs="2", directory="a")
tuning.search(base, x, epochs=2, directory="a", oracle="rndom")
tuning.search(base, x, epochs=2, directory="a", where="convolution")
tuning.serach(base, x)
"""


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> dict[str, list[str]]:
    """The lines of two scripts of a user that mypy marks."""
    folder = tmp_path_factory.mktemp("user")
    for name, lines in (("right", RIGHT), ("wrong", WRONG)):
        (folder / f"{name}.py").write_text(HEAD + lines)
    process = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, list[str]] = {"right": [], "wrong": []}
    for name, number in re.findall(r"^(\w+)\.py:(\d+): error", process.stdout, re.MULTILINE):
        line = (HEAD + (RIGHT if name == "right" else WRONG)).splitlines()[int(number) - 1]
        if line not in found[name]:
            found[name].append(line)
    assert not process.stderr
    return found


def test_correct_use_is_not_marked(marked):
    assert marked["right"] == []


def test_each_wrong_line_is_marked(marked):
    assert marked["wrong"] == WRONG.strip().splitlines()


def test_the_packages_say_that_they_are_typed():
    for package in (keras_se, tuning):
        assert Path(package.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize(
    ("alias", "table"),
    [(gates.GateName, gates.GATES), (squeezes.SqueezeName, squeezes.SQUEEZES)],
)
def test_the_names_of_the_types_are_those_of_the_tables(alias, table):
    assert get_args(alias) == tuple(table)


def test_lazy_names_are_visible_to_type_checkers():
    source = Path(tuning.__file__).read_text()
    block = source.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    imported = {
        name.strip() for names in re.findall(r"import (.+)", block) for name in names.split(",")
    }
    assert imported == set(tuning.__all__)
