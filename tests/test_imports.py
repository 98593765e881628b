"""Who may import whom, and what `import keras_se` may load."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_MODULES = {"callbacks", "compress", "testing", "theory"}

# One rank a folder or module, lowest first: arrows go down, or stay inside of one.
RANKS = (
    "keras_se.errors",
    "keras_se.importable",
    "keras_se.stderr",
    "keras_se.untrusted",
    "keras_se.isolation",
    "keras_se.layers",
    "keras_se.data",
    "keras_se.files",
    "keras_se.display",
    "keras_se.theory",
    "keras_se.graph",
    "keras_se.sites",
    "keras_se.surgery",
    "keras_se.costs",
    "keras_se.litert.graph",
    "keras_se.litert",
    "keras_se.compress.tfmot.bridge",
    "keras_se.compress.tfmot",
    "keras_se.compress",
    "keras_se.reading",
    "keras_se.callbacks",
    "keras_se.verification",
    "keras_se.deployment",
    "keras_se.testing",
    "keras_se",
    "keras_se.cli",
    "tuning.choice",
    "tuning.objectives",
    "tuning.seeding",
    "tuning.compiling",
    "tuning.space",
    "tuning.hypermodel",
    "tuning.oracles",
    "tuning.data",
    "tuning.trials",
    "tuning.deployed",
    "tuning.folder",
    "tuning.report",
    "tuning.result",
    "tuning.slots",
    "tuning.running",
    "tuning.searching",
    "tuning.commands",
    "tuning",
    "tuning.cli",
)


def rank(module):
    """The rank of the longest entry that `module` is or lies under."""
    matches = [
        (len(entry), number)
        for number, entry in enumerate(RANKS)
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
        "keras_se/layers": "from keras_se.surgery.insertion import insert",
        "keras_se/litert": "import keras_se.compress.quantization\nimport tuning.search",
        "keras_se/litert/graph": "import keras_se.litert.convert",
        "tuning": "from keras_se import insert",
    }.items():
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "module.py").write_text(source)
    assert arrows_that_point_back(tmp_path) == [
        ("keras_se.layers.module", "keras_se.surgery.insertion"),
        ("keras_se.litert.graph.module", "keras_se.litert.convert"),
        ("keras_se.litert.module", "keras_se.compress.quantization"),
        ("keras_se.litert.module", "tuning.search"),
    ]


def circles(root):
    """Modules that import each other, however far around."""
    arrows = {}
    for package in ("keras_se", "tuning"):
        for path in (root / package).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            arrows[name] = set(imports(path, package)) - {name}
    while True:
        leaves = {name for name, to in arrows.items() if not to & set(arrows)}
        if not leaves:
            return sorted(arrows)
        arrows = {name: to for name, to in arrows.items() if name not in leaves}


def test_no_circles_between_modules():
    assert circles(ROOT) == []


def test_the_guard_against_circles_can_fail(tmp_path):
    (tmp_path / "keras_se").mkdir()
    (tmp_path / "keras_se" / "a.py").write_text("import keras_se.b")
    (tmp_path / "keras_se" / "b.py").write_text("from keras_se.c import d")
    (tmp_path / "keras_se" / "c.py").write_text("import keras_se.a")
    assert circles(tmp_path) == ["keras_se.a", "keras_se.b", "keras_se.c"]


def test_folders_are_small():
    for package in ("keras_se", "tuning"):
        for folder in (ROOT / package, *(ROOT / package).rglob("*/")):
            assert len(list(folder.glob("*.py"))) <= 13, folder


def loaded_by(code, folder=ROOT):
    """The top-level packages in memory after `code`, in a fresh process."""
    code += "\nimport sys; print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(process.stdout.split())


@pytest.fixture(scope="module")
def added():
    """What each import adds to the memory of one process, after `import keras`."""
    code = "import sys, keras\nknown = {n.split('.')[0] for n in sys.modules}"
    for what in ("keras_se", "keras_se.cli.compress, keras_se.cli.tflite", "keras_tuner"):
        code += f"\nimport {what}\nnew = {{n.split('.')[0] for n in sys.modules}} - known"
        code += "\nprint(*new, file=sys.stderr)\nknown |= new"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [set(line.split()) for line in process.stderr.splitlines()[-3:]]


def test_import_keras_se_loads_nothing_beyond_keras(added):
    assert added[0] == {"keras_se"}


def test_keras_se_works_without_tuning(added):
    assert not added[1] & {"tuning", "keras_tuner", "sklearn", "tensorboard"}


def test_these_guards_too_can_fail(added):
    assert "keras_tuner" in added[2]


def test_tuning_says_something_before_keras_is_loaded():
    assert not loaded_by("import tuning.cli") & {"keras", "tensorflow", "keras_tuner", "keras_se"}


def test_the_rule_of_choice_needs_no_keras():
    code = """
from tuning import Cheapest, ScoreTable, StructuralRisk
from tuning.choice.ratio_fit import fit_ratio
table = ScoreTable(("a", "b"), [[1, 2, 3], [1, 2, 4]], (2, 1), (2, 1))
Cheapest(0.1).choose(table), StructuralRisk(0.1).choose(table)
"""
    assert not loaded_by(code) & {"keras", "tensorflow", "keras_tuner", "keras_se"}
    assert "keras_se" in loaded_by(
        "import tuning.choice.errors; tuning.choice.errors.input_error('')"
    )


@pytest.mark.parametrize("package", ["keras_se", "keras_se.compress", "tuning"])
def test_table_of_contents(package):
    module = importlib.import_module(package)
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
