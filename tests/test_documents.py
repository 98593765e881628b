"""Every example in a docstring and every block of the README is run."""

import doctest
import importlib
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import keras_se
import tuning

ROOT = Path(__file__).parents[1]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = sorted(
    info.name
    for package in (keras_se, tuning)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert outcome.failed == 0


def blocks(text):
    return re.findall(r"^```python\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_readme(tmp_path, monkeypatch):
    """The blocks build on each other, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    found = blocks((ROOT / "README.md").read_text())
    assert len(found) >= 5
    script = tmp_path / "readme.py"
    script.write_text("\n".join(found))
    runpy.run_path(str(script))


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_examples(name, tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / "examples" / name], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


def test_the_two_commands_of_the_readme_and_the_one_of_ci():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[all]" && keras-se demo' in readme
    assert 'pip install -e ".[all,test]" && pytest' in readme
    assert 'pip install -e ".[all,test]" && pytest' in ci
