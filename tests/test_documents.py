"""Every example in a docstring and every block of the README is run."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import keras_se
import tuning

ROOT = Path(__file__).parents[1]
# A search of fewer trials, and fewer test images: those of the documents take minutes.
SHORTER = {
    "x[1400:], y[1400:]": "x[1400:1500], y[1400:1500]",
    "x[:1400], x[1400:]": "x[:1400], x[1400:1500]",
    "seeds=3": "seeds=2",
    "fresh_seeds=2": "fresh_seeds=1",
    "ratios=(2, 8)": "ratios=(2,)",
}
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


def run(source, folder):
    for long, short in SHORTER.items():
        source = source.replace(long, short)
    script = folder / "script.py"
    script.write_text(source)
    runpy.run_path(str(script), run_name="__main__")


def blocks(text):
    return re.findall(r"^```python\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_readme(tmp_path, monkeypatch):
    """The blocks build on each other, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    found = blocks((ROOT / "README.md").read_text())
    assert len(found) >= 5
    run("\n".join(found), tmp_path)


@pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask")
@pytest.mark.parametrize("name", ["deploy.md", "sites.md", "verify.md"])
def test_pages(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks((ROOT / "docs" / name).read_text())
    assert found
    run("\n".join(found), tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run((ROOT / "examples" / name).read_text(), tmp_path)
    assert capsys.readouterr().out


def test_the_two_commands_of_the_readme_and_the_one_of_ci():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[all]" && keras-se demo' in readme
    assert 'pip install -e ".[all,test]" && pytest' in readme
    assert 'pip install -e ".[all,test]" && pytest' in ci


def test_the_shortened_search_is_in_the_documents():
    examples = (path.read_text() for path in ROOT.glob("examples/*.py"))
    texts = [(ROOT / "README.md").read_text(), *examples]
    assert all(any(long in text for text in texts) for long in SHORTER)
