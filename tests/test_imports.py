"""Who may import whom, and what `import keras_se` may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_MODULES = {"compress", "theory"}

# Arrows point from right to left: a module imports modules of its own rank or of a lower one.
RANKS = (
    {"keras_se.errors"},
    {
        "keras_se.layers",
        "keras_se.data",
        "keras_se.outputs",
        "keras_se.model_files",
        "keras_se.losses",
    },
    {"keras_se.theory", "keras_se.replay", "keras_se.gate_rule"},
    {"keras_se.inputs", "keras_se.inline", "keras_se.rebuilding"},
    {"keras_se.sites"},
    {"keras_se.placements", "keras_se.injection"},
    {"keras_se.compensation", "keras_se.costs", "keras_se.effects"},
    {"keras_se.surgery", "keras_se.gate_statistics", "keras_se.gate_report"},
    {"keras_se.adoption", "keras_se.gate_curves"},
    {"keras_se.litert", "keras_se.compress"},
    {"keras_se.reading", "keras_se.assignment"},
    {"keras_se.verification"},
    {"keras_se.tables"},
    {"keras_se"},
    {"keras_se.compress_command"},
    {"keras_se.cli"},
    {"tuning"},
)


def rank(module):
    """The rank of the longest entry that `module` is or lies under."""
    matches = [
        (len(entry), number)
        for number, entries in enumerate(RANKS)
        for entry in entries
        if module == entry or module.startswith(f"{entry}.")
    ]
    return max(matches)[1] if matches else None


def imports(path, package):
    """What a file of `package` imports of the two packages, outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if is_module(module) else node.module


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def arrows_that_point_back(root, packages=("keras_se", "tuning")):
    wrong = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            name = name.removesuffix(".__init__")
            for imported in imports(path, package):
                back = rank(imported) is not None and rank(imported) > rank(name)
                if back:
                    wrong.append((name, imported))
    return wrong


def test_every_module_has_a_rank():
    for package in ("keras_se", "tuning"):
        for path in (ROOT / package).rglob("*.py"):
            assert rank(".".join(path.relative_to(ROOT).with_suffix("").parts)) is not None


def test_arrows_point_one_way():
    assert arrows_that_point_back(ROOT) == []


def test_this_guard_can_fail(tmp_path):
    for package, source in {
        "keras_se/layers": "from keras_se.surgery import insert",
        "keras_se/litert": "import tuning.search",
        "tuning": "from keras_se import insert",
    }.items():
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "module.py").write_text(source)
    assert arrows_that_point_back(tmp_path) == [
        ("keras_se.layers.module", "keras_se.surgery"),
        ("keras_se.litert.module", "tuning.search"),
    ]


def loaded_by(code, folder=ROOT):
    """The top-level packages in memory after `code`, in a fresh process."""
    code += "\nimport sys; print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(process.stdout.split())


@pytest.fixture(scope="module")
def keras_alone():
    return loaded_by("import keras")


def test_import_keras_se_loads_nothing_beyond_keras(keras_alone):
    assert loaded_by("import keras_se") - keras_alone == {"keras_se"}


def test_this_guard_too_can_fail(keras_alone):
    assert "keras_tuner" in loaded_by("import keras_se, keras_tuner") - keras_alone
    assert "ai_edge_litert" in loaded_by("import ai_edge_litert.interpreter, keras") - keras_alone


def test_keras_se_works_without_tuning(keras_alone):
    loaded = loaded_by("import keras_se.cli, keras_se.verification")
    assert not (loaded - keras_alone) & {"tuning", "keras_tuner", "sklearn", "tensorboard"}


def test_tuning_says_something_before_keras_is_loaded():
    assert not loaded_by("import tuning.cli") & {"keras", "tensorflow", "keras_tuner", "keras_se"}


def test_the_rule_of_choice_needs_no_keras():
    code = """
from tuning import Cheapest, ScoreTable, StructuralRisk
from tuning.ratio_fit import fit_ratio
table = ScoreTable(("a", "b"), [[1, 2, 3], [1, 2, 4]], (2, 1), (2, 1))
Cheapest(0.1).choose(table), StructuralRisk(0.1).choose(table)
"""
    assert not loaded_by(code) & {"keras", "tensorflow", "keras_tuner", "keras_se"}
    assert "keras_se" in loaded_by("import tuning.refusals; tuning.refusals.input_error('')")


@pytest.mark.parametrize("package", ["keras_se", "tuning"])
def test_table_of_contents(package):
    import importlib

    module = importlib.import_module(package)
    lazy = set(module._LAZY)
    assert lazy <= set(module.__all__)
    assert sorted(module.__all__) == list(module.__all__)
    for name in module.__all__:
        assert callable(getattr(module, name)) or name in _MODULES
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense


def test_no_submodule_hides_a_function():
    """A submodule `keras_se.verify` would replace the function of that name once it is imported."""
    import keras_se
    import tuning

    for module in (keras_se, tuning):
        names = {path.stem for path in Path(module.__file__).parent.iterdir()}
        assert not names & (set(module.__all__) - _MODULES)
