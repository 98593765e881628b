"""The page of a verdict, in a real browser."""

import dataclasses
import html
import itertools
import re

import numpy as np
import pytest
from browser import opened, tables
from sabotage import hold_gates

from keras_se import find_sites, read_gates, to_tflite, verify
from keras_se.errors import InputError


@pytest.fixture(scope="module")
def reports(networks, images, sound):
    """A sound file with labels, and one whose gates are frozen, with markup in its names."""
    model, rng = networks["sigmoid"], np.random.default_rng(0)
    (site, _), gates = find_sites(model), read_gates(model, images)
    frozen = hold_gates(model, {site.layer: gates["se_1"].mean(axis=0)})
    file = to_tflite(frozen, "int8", images[100:])
    labels = rng.integers(0, 10, 100)
    lost = verify(model, file, images[:100], labels, stress={"<dark>": 0.1 * images[:100]})
    lost = dataclasses.replace(lost, reference="model '<b>own</b>'")
    return {"sound": sound("hard_sigmoid", "int8"), "lost": lost}


@pytest.fixture(scope="module")
def pages(reports, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name, report in reports.items():
        report.to_html(folder / f"{name}.html")
        found[name] = opened(folder / f"{name}.html", width=360)
    return found


@pytest.mark.parametrize("name", ["sound", "lost"])
def test_a_browser_shows_it_without_errors_and_without_network(pages, name):
    page = pages[name]
    assert page.console == []
    assert page.requests == []
    assert page.width <= 360  # nothing but tables is wider than a phone, and these scroll
    assert "<script" not in page.dom


def test_a_browser_sees_errors_requests_and_what_is_too_wide(tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><title>a</title><div style='width: 700px'>b</div>"
        "<img src='http://127.0.0.1:9/picture.png'><script>console.error('loud')</script>"
    )
    page = opened(tmp_path / "bad.html", width=360)
    assert page.width > 700
    assert page.requests == ["http://127.0.0.1:9/picture.png"]
    assert any("loud" in line for line in page.console)


@pytest.mark.parametrize("name", ["sound", "lost"])
def test_the_tables_hold_the_numbers_of_the_report(pages, reports, name):
    report, (outputs, sites) = reports[name], pages[name].tables
    assert [row[0] for row in outputs[1:]] == ["reference", "file", "reference, its gates constant"]
    assert outputs[2][1] == f"{report.outcome.file:.4f}"
    assert outputs[2][4] == f"{report.outcome.error:.1%}"
    assert outputs[3][1] == f"{report.outcome.constant:.4f}"
    if report.outcome.metric == "accuracy":
        assert outputs[2][2] == f"{report.outcome.difference:+.4f}"
        low, high = report.outcome.interval
        assert outputs[2][3] == f"{low:+.4f} to {high:+.4f}"
    titles = ["site", "gate", "channels", "R²", "slope", "spread", "worst", "of_channel", "worth"]
    assert sites[0][:9] == [title.replace("_", " ") for title in titles]
    for row, site in zip(sites[1:], report.sites.values(), strict=True):
        channel, lowest = site.worst_channel
        assert row[:3] == [site.name, site.gate, str(site.channels)]
        assert row[3:6] == [f"{site.r2:.3f}", f"{site.slope:.3f}", f"{site.spread:.1f}"]
        assert row[6:9] == [f"{lowest:.3f}", str(channel), f"{site.worth:.2f}"]
        assert row[9:] == ["integers", str(site.partitions), site.verdict]


@pytest.mark.parametrize("name", ["sound", "lost"])
def test_a_notebook_shows_the_table_of_the_page(pages, reports, name):
    shown = reports[name]._repr_html_()
    assert tables(shown) == pages[name].tables[1:]
    assert f"<p><strong>{html.escape(reports[name].conclusion)}</strong></p>" in shown


def test_the_conclusion_comes_first_and_the_reasons_follow(pages, reports):
    page, report = pages["lost"], reports["lost"]
    text = " ".join(re.sub(r"<[^>]+>", " ", page.dom.partition("<main>")[2]).split())
    assert text.index("Do not ship") < text.index("Why, and what to do") < text.index("Outputs")
    assert "se_1 is lost: R² of" in text
    assert "The excitation itself lost them" in text
    assert report.sha256 in text
    assert report.runtime in text
    assert f"{report.samples}, {report.held_out}" in text
    # What comes from outside is text, not markup.
    assert "model &#39;&lt;b&gt;own" in page.dom or "model '&lt;b&gt;own" in page.dom
    assert "On &lt;dark&gt;:" in page.dom


def test_headings_pictures_and_keyboard(pages, reports):
    page = pages["lost"]
    assert [heading[:2] for heading in page.headings].count("h1") == 1
    levels = [int(heading[1]) for heading in page.headings]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.pictures) == 2 * len(reports["lost"].sites)
    for picture in page.pictures:
        assert picture["role"] == "img"
        assert re.search(r"se_\d", picture["aria-label"])
    scrolled = [a for tag, a in page.tags if tag == "div" and a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= targets
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    identifiers = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", page.dom))
    assert colours == set()  # all are those of the page, which has a light and a dark form


def test_the_points_are_gates_of_the_report(reports, networks, images):
    report, gates = reports["lost"], read_gates(networks["sigmoid"], images[:100])
    for name, pairs in report.pairs.items():
        assert pairs.shape == (400, 2)
        assert np.isin(pairs[:, 0].astype("float32"), gates[name].astype("float32")).all()
    frozen = report.sites["se_1"]
    assert len(frozen.channel_r2) == len(frozen.channel_spread) == 8
    spread = np.array(frozen.channel_spread)
    assert np.sqrt((spread**2).mean()) == pytest.approx(frozen.spread, rel=0.02)
    assert min(r2 for r2 in frozen.channel_r2 if r2 is not None) <= frozen.worst_channel[1]


def test_a_page_is_written_whole_and_over_nothing(reports, tmp_path):
    report = reports["sound"]
    report.to_html(tmp_path / "a.html")
    with pytest.raises(InputError, match="must not exist yet"):
        report.to_html(tmp_path / "a.html")
    report.to_html(tmp_path / "a.html", overwrite=True)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "a.html.1").read_bytes()
    with pytest.raises(InputError, match=r"must end in \.html\. Received: '.*a\.txt'"):
        report.to_html(tmp_path / "a.txt")
