"""A report in a notebook and as JSON, of parts that are made up."""

import json
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from browser import tables

from keras_se.display.shown import Shown
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Command


@dataclass(frozen=True)
class Inner:
    derived: ClassVar[tuple[str, ...]] = ("doubled",)
    value: int

    @property
    def doubled(self):
        return 2 * self.value


@dataclass(frozen=True)
class Report(Shown):
    inner: dict[str, Inner]
    rows: int = 3
    hidden: object = field(default=None, compare=False)

    derived: ClassVar[tuple[str, ...]] = ("conclusion",)

    def parts(self):
        yield "Ship <b>: \x1b[31mall."
        cells = [f"se_{n} <i>" for n in range(self.rows)]
        wide = Column("only where there is room", ["a"] * self.rows, short=None)
        verdict = Column("verdict", ["lost"] * self.rows, is_words=True)
        figures = Column("channels", ["8"] * self.rows, short="C")
        yield Table("Sites & more", (names("site", cells), wide, figures, verdict), most=2)
        yield "A sentence that is so long that a terminal of eighty columns has to have it wrapped."
        yield Command(f"Next: {'a' * 90} b")


@pytest.fixture
def report():
    return Report({"a": Inner(2)}, hidden=object())


def test_text_has_the_short_titles_and_wraps_no_command(report):
    lines = str(report).splitlines()
    assert lines[0] == "Ship <b>: [31mall."
    assert ["site", "C", "verdict"] in [line.split() for line in lines]
    assert " and 1 more" in lines
    assert lines[-1] == f"Next: {'a' * 90} b"
    assert max(map(len, lines[:-1])) <= 80


def test_html_is_escaped_and_has_whole_titles(report):
    shown = report._repr_html_()
    (table,) = tables(shown)
    assert table == [
        ["site", "only where there is room", "channels", "verdict"],
        ["se_0 <i>", "a", "8", "lost"],
        ["se_1 <i>", "a", "8", "lost"],
        ["and 1 more"],
    ]
    assert "<p><strong>Ship &lt;b&gt;: [31mall.</strong></p>" in shown
    assert f"<pre>Next: {'a' * 90} b</pre>" in shown
    assert 'aria-label="Sites &amp; more"' in shown
    # The notebook's own colours, light or dark, and nothing that runs.
    for what in ("color", "#", "script", "<i>", "<b>"):
        assert what not in shown


def test_a_page_has_all_rows(report):
    table = list(report.parts())[1]
    (rows,) = tables(table.html(links=True))
    assert len(rows) == 1 + 3 == 1 + len(table)
    assert '<a href="#3">se_2 &lt;i&gt;</a>' in table.html(links=True)
    assert '<td class="tone-bad"' in table.html()


def test_json_has_fields_and_the_properties_that_are_named(report):
    assert json.loads(report.to_json()) == {
        "schema": 1,
        "conclusion": report.conclusion,
        "inner": {"a": {"doubled": 4, "value": 2}},
        "rows": 3,
    }
