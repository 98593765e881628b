"""docs/limits.md: what it quotes stands in the source, and what the source may say stands there."""

import ast
import importlib
import re
from typing import get_args

import pages
import pytest

from keras_se.deployment.attempt import Accuracy
from keras_se.surgery.folding import How
from keras_se.verification import rule
from keras_se.verification.verdict import MIN_SAMPLES

PAGE = (pages.DOCS / "limits.md").read_text()
ROOT = pages.DOCS.parent
SOURCES = [path for name in ("keras_se", "tuning") for path in sorted((ROOT / name).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def text_of(node):
    """A string of the source with … in place of what is formatted; `None` if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


def nodes(kind, path=None):
    trees = TREES.values() if path is None else [TREES[ROOT / path]]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, kind)]


def literals():
    """All strings of the packages but docstrings."""
    bodies = nodes((ast.Module, ast.ClassDef, ast.FunctionDef))
    documentation = {id(body.body[0].value) for body in bodies if ast.get_docstring(body)}
    found = [text_of(n) for n in nodes((ast.Constant, ast.JoinedStr)) if id(n) not in documentation]
    return [text for text in found if text]


LITERALS = literals()


def first_cells(header, page=PAGE):
    """The code in the first column of all tables of the page with this header."""
    found = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    cells = [line.split(" | ")[0].strip("| ") for table in found for line in table.splitlines()]
    return [cell.strip("`") if "``" not in cell else cell[2:-2] for cell in cells]


def is_said(quote, said=LITERALS):
    """Whether a sentence stands in the source, … for anything."""
    pattern = re.compile(".*".join(map(re.escape, quote.split("…"))), re.DOTALL)
    return any(pattern.search(text) for text in said)


QUOTES = first_cells("it says")


def test_the_quotes_are_many():
    assert len(QUOTES) > 90
    assert len(QUOTES) == len(set(QUOTES))


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quote_stands_in_the_source(quote):
    assert len(quote.replace("…", "")) > 12, "too short to be searched for"
    assert is_said(quote)


@pytest.mark.parametrize(
    "quote", ["ratio must be at least 2", "fold needs … samples or fewer", "This sentence is mine."]
)
def test_that_a_quote_stands_nowhere(quote):
    assert not is_said(quote)


def called(node):
    name = node.func
    return name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")


def warnings_of_the_code():
    """The sentences of calls of `warn`, up to what was received."""
    texts = [text_of(n.args[0]) for n in nodes(ast.Call) if called(n) == "warn" and n.args]
    return [re.split(r" Received:", text)[0] for text in texts if text and text != "…"]


def is_on_page(sentence, quotes=QUOTES):
    return any(is_said(quote, [sentence]) for quote in quotes)


def test_every_warning_of_the_code_is_on_the_page():
    found = warnings_of_the_code()
    assert len(found) >= 12
    assert [sentence for sentence in found if not is_on_page(sentence)] == []


def test_that_a_warning_is_not_on_the_page():
    assert not is_on_page("A warning must be on the page.")


def warning_classes():
    return {
        node.name
        for node in nodes(ast.ClassDef)
        if any(getattr(base, "id", "").endswith("Warning") for base in node.bases)
    }


def test_every_warning_class_is_on_the_page():
    paths = [cell for cell in first_cells("class") if "." in cell]
    assert {path.rpartition(".")[2] for path in paths} == warning_classes()
    for path in paths:
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), UserWarning)


def verdicts_of_sites():
    """The first arguments of `Judgement(...)`."""
    places = "keras_se/verification/rule.py", "keras_se/verification/verdict.py"
    calls = [node for path in places for node in nodes(ast.Call, path)]
    first = [n.args[0] for n in calls if called(n) == "Judgement"]
    constants = [part for node in first for part in ast.walk(node)]
    return {n.value for n in constants if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def returned(path, function):
    """The strings that a function may return."""
    (body,) = (n for n in nodes(ast.FunctionDef, path) if n.name == function)
    parts = [n.value for n in ast.walk(body) if isinstance(n, ast.Return) and n.value is not None]
    found = []
    for part in parts:
        branches = [part.body, part.orelse] if isinstance(part, ast.IfExp) else [part]
        found += [text for branch in branches if (text := text_of(branch))]
    return set(found)


def conclusions():
    """The verdicts of a compression report."""
    path = "keras_se/verification/reports/compression_report.py"
    (body,) = (n for n in nodes(ast.FunctionDef, path) if n.name == "_conclusion")
    assigned = [n for n in ast.walk(body) if isinstance(n, ast.Assign)]
    return {n.value.value for n in assigned if n.targets[0].id == "verdict"}


FILE_VERDICTS = {
    *(rule.SURVIVE, rule.KEPT, rule.WEAKENED, rule.LOST, rule.IN_PART),
    rule.NOTHING_TO_SURVIVE,
}
WORDS = {
    "verdict": FILE_VERDICTS | verdicts_of_sites(),
    "blame": returned("keras_se/verification/verdict.py", "_blame") | {"training"},
    "`accuracy_verdict`": set(get_args(Accuracy)) - {""},
    "conclusion": conclusions(),
    "`how`": set(get_args(How)),
}


@pytest.mark.parametrize("header", WORDS)
def test_every_verdict_of_the_code_is_on_the_page(header):
    assert len(WORDS[header]) >= 3
    assert set(first_cells(re.escape(header))) == WORDS[header]


@pytest.mark.parametrize("change", [("| `lost` |", "| `gone` |"), ("| `lost` | R²", "| R²")])
def test_that_a_verdict_is_not_on_the_page(change):
    assert set(first_cells("verdict", PAGE.replace(*change))) != WORDS["verdict"]


def test_the_verdicts_of_the_rule_are_all_of_them():
    """`verdict_of` returns these constants and no others."""
    functions = nodes(ast.FunctionDef, "keras_se/verification/rule.py")
    (body,) = (n for n in functions if n.name == "verdict_of")
    constants = {n.id for n in ast.walk(body) if isinstance(n, ast.Name) and n.id.isupper()}
    found = {getattr(rule, name) for name in constants if isinstance(getattr(rule, name), str)}
    assert found == FILE_VERDICTS


def test_the_numbers_of_the_page():
    assert (rule.MIN_R2, rule._LOST_R2, rule._LOST_SLOPE) == (0.9, 0.6, 0.3)
    assert (rule.ADAPTIVE_STEPS, rule.MIN_WORK, MIN_SAMPLES) == (1.5, 0.9, 32)
    assert "need **32 samples**" in PAGE
