"""Every example in a docstring, every block of the README and of the pages is run."""

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
    " seeds=3": " seeds=1",
    "fresh_seeds=2": "fresh_seeds=1",
    "epochs=5,": "epochs=2,",
    "ratios=(2, 8)": "ratios=(2,)",
}
README = (ROOT / "README.md").read_text()
PAGES = sorted(path for path in ROOT.glob("docs/**/*.md"))
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


def blocks(text, language="python"):
    return re.findall(rf"^```{language}\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)


def words(text):
    """The text with any number, or none, as one sign, however its lines are broken."""
    text = re.sub(r"(?<!\w)[-+]?\d[\d.,]*\d%?|(?<!\w)\d%?|(?<=\s)-(?=\s)", "#", text)
    return " ".join(re.sub("─+", "─", text).split())


def test_readme(tmp_path, monkeypatch, capsys):
    """The blocks build on each other, as a reader runs them, and print the sample."""
    monkeypatch.chdir(tmp_path)
    found = blocks(README)
    assert len(found) >= 5
    run("\n".join(found), tmp_path)
    (sample,) = blocks(README, "text")
    assert words(sample) in words(capsys.readouterr().out)


def test_words_are_compared_and_numbers_are_not():
    assert words("R² 0.99, se_1 -\n───\n 93% (-0.01)") == words("R² 1, se_1 -0.2 ─ 9% (+0.20)")
    assert words("the gates survive") != words("the gates are lost")
    assert words("at se_1") != words("at se_2")


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1100


@pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text())], ids=lambda p: p.name)
def test_pages(page, tmp_path, monkeypatch, capsys):
    """Each page runs as a whole, and prints the sentences that it explains."""
    monkeypatch.chdir(tmp_path)
    run("\n".join(blocks(page.read_text())), tmp_path)
    printed = words(capsys.readouterr().out)
    assert [said for said in explained(page.read_text()) if words(said) not in printed] == []


def explained(text):
    """Sentences with figures of the page's own network, in the first cell of a row."""
    return re.findall(r"^\| \*([^*]*\d\.\d{4}[^*]*)\*", text, flags=re.MULTILINE)


def test_the_first_hour_explains_sentences():
    assert len(explained((ROOT / "docs/first_hour.md").read_text())) == 3


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run((ROOT / "examples" / name).read_text(), tmp_path)
    assert capsys.readouterr().out


def test_the_two_commands_of_the_readme_and_those_of_ci():
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[all]" && keras-se demo' in README
    assert 'pip install -e ".[all,test]" && pytest' in README
    assert 'pip install -e ".[all,test]" && pytest' in ci
    assert "mkdocs build --strict" in ci


def test_the_shortened_search_is_in_the_documents():
    paths = (*ROOT.glob("examples/*.py"), *PAGES)
    texts = [README, *(path.read_text() for path in paths)]
    assert all(any(long in text for text in texts) for long in SHORTER)
