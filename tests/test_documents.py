"""Every example in a docstring, every block of the README and of the pages is run."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pages
import pytest

import keras_se
import tuning

ROOT = Path(__file__).parents[1]
# A search of fewer trials, and fewer test images: those of the documents take minutes.
SHORTER = {
    "x[1400:], y[1400:]": "x[1400:1500], y[1400:1500]",
    " seeds=3": " seeds=1",
    "fresh_seeds=2": "fresh_seeds=1",
    "fresh_seeds=3": "fresh_seeds=0",
    "epochs=5,": "epochs=2,",
    "ratios=(2, 8)": "ratios=(2,)",
}
README = (ROOT / "README.md").read_text()
PAGES = sorted(pages.DOCS.glob("**/*.md"))
# test_porting.py runs it, for the functions in it.
RUN = [p for p in PAGES if pages.blocks(p.read_text()) and p.name != "porting.md"]
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


def shorter(text):
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def words(text):
    """The text with any number, or none, as one sign, however its lines are broken."""
    text = re.sub(r"(?<!\w)[-+]?\d[\d.,]*\d%?|(?<!\w)\d%?|(?<=\s)-(?=\s)", "#", text)
    return " ".join(re.sub("─+", "─", text).split())


def test_readme(tmp_path, monkeypatch):
    """The blocks build on each other, as a reader runs them, and print the sample."""
    monkeypatch.chdir(tmp_path)
    assert any(said for _, said in pages.blocks(README))
    pages.run_page(shorter(README), lambda said, printed: words(said) in words(printed))


def test_words_are_compared_and_numbers_are_not():
    assert words("R² 0.99, se_1 -\n───\n 93% (-0.01)") == words("R² 1, se_1 -0.2 ─ 9% (+0.20)")
    assert words("the gates survive") != words("the gates are lost")
    assert words("at se_1") != words("at se_2")


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1100


@pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch):
    """Each page runs as a whole, and prints what it says and the sentences that it explains."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    _, printed = pages.run_page(shorter(text))
    assert [said for said in explained(text) if words(said) not in words(printed)] == []


def explained(text):
    """Sentences with figures of the page's own network, in the first cell of a row."""
    return re.findall(r"^\| \*([^*]*\d\.\d{4}[^*]*)\*", text, flags=re.MULTILINE)


def test_the_first_hour_explains_sentences():
    assert len(explained((ROOT / "docs/first_hour.md").read_text())) == 3


def test_the_two_commands_of_the_readme_and_those_of_ci():
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -e ".[all]" && keras-se demo' in README
    assert 'pip install -e ".[all,test]" && pytest' in README
    assert 'pip install -e ".[all,test]" && pytest' in ci
    assert "mkdocs build --strict" in ci


def test_the_shortened_search_is_in_the_documents():
    texts = [README, *(path.read_text() for path in PAGES)]
    assert all(any(long in text for text in texts) for long in SHORTER)
