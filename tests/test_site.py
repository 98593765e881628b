"""The site leads: its links, names, commands, words and figures are those of the packages."""

import importlib
import inspect
import re
import shlex
import types
from functools import reduce
from pathlib import Path

import click
import command_page
import numpy as np
import pytest

from keras_se import theory
from keras_se.litert import convert
from keras_se.litert.devices import npu
from keras_se.sites import matrices
from keras_se.verification import latency, outcome, rule, verdict
from tuning.choice import scores
from tuning.deployed import samples
from tuning.folder import begun
from tuning.oracles import exhaustive
from tuning.slots import slot

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = {
    path.relative_to(ROOT): path.read_text() for path in (*ROOT.glob("*.md"), *DOCS.glob("**/*.md"))
}
PUBLIC = ("keras_se", "keras_se.compress", "keras_se.layers", "keras_se.litert", "tuning")
RESNET50, STAGES = 25_636_712, ((256, 3), (512, 4), (1024, 6), (2048, 3))  # channels, blocks


def anchors(text):
    """The anchors of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.+?^```", "", text, flags=re.M | re.S), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def dead_links(path, text, texts):
    """The relative links of a text that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (ROOT / path.parent / name).resolve() if name else ROOT / path
        known = anchors(texts.get(target.relative_to(ROOT), ""))
        if not target.exists() or (anchor and anchor not in known):
            yield link


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_links(path):
    assert list(dead_links(path, TEXTS[path], TEXTS)) == []


def test_a_dead_link_is_found():
    path = Path("docs/index.md")
    text = "[a](no.md) [b](sites.md#names) [c](sites.md#no-such) [d](#no) [e](https://keras.io)"
    assert list(dead_links(path, text, TEXTS)) == ["no.md", "sites.md#no-such", "#no"]


def shown(text):
    """The objects that the API pages show."""
    return [imported(name) for name in re.findall(r"^::: (\S+)", text, re.M)]


def imported(name):
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise ModuleNotFoundError(name)


def missing(text):
    """The public names that are on no API page."""
    objects = shown(text)
    for package in PUBLIC:
        for name in importlib.import_module(package).__all__:
            found = imported(f"{package}.{name}")
            if isinstance(found, types.ModuleType):
                if found not in objects and found.__name__ not in PUBLIC:
                    yield from (n for n, part in own(found) if part not in objects)
            elif found not in objects:
                yield f"{package}.{name}"


def own(module):
    """The public functions and classes of a module."""
    for name, part in inspect.getmembers(
        module, lambda m: inspect.isfunction(m) or inspect.isclass(m)
    ):
        if part.__module__ == module.__name__ and not name.startswith("_"):
            yield name, part


API = "\n".join(text for path, text in TEXTS.items() if path.parent.name == "api")


def test_every_public_name_is_on_an_api_page():
    assert list(missing(API)) == []


@pytest.mark.parametrize(
    "name", ["keras_se.verify", "keras_se.testing.assert_gates_survive", "tuning.search"]
)
def test_a_missing_name_is_found(name):
    assert list(missing(API.replace(f"::: {name}\n", "\n"))) in ([name], [name.split(".")[-1]])


def test_the_page_of_the_command_line_is_what_click_knows():
    text = command_page.PAGE.read_text()
    assert text == command_page.page(text), "run: python tests/helpers/command_page.py"
    rotten = text.replace("`--ratio FLOAT`", "`--rate FLOAT`")
    assert command_page.page(rotten) == text != rotten


def command_lines(text):
    """The calls of keras-se in shell blocks, as lists of words."""
    for block in re.findall(r"^```bash\n(.+?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["keras-se"] and words[1:2] != ["COMMAND"]:
                    yield words[1:]


def parse(words):
    """Raises if a command or an option does not exist."""
    commands = {name: command for name, _, command in command_page.commands()}
    command = commands[words[0]]
    command.make_parser(click.Context(command)).parse_args(words[1:])


def test_commands_in_the_documents_exist():
    found = [words for text in TEXTS.values() for words in command_lines(text)]
    assert {words[0] for words in found} == {name for name, _, _ in command_page.commands()}
    for words in found:
        parse(words)
    (wrong,) = command_lines("```bash\nkeras-se cost x.keras --sharp  # no such option\n```\n")
    with pytest.raises(click.NoSuchOption):
        parse(wrong)


def test_the_glossary_has_the_words_of_verdicts():
    text = TEXTS[Path("docs/glossary.md")]
    bold = set(re.findall(r"\*\*([^*]+)\*\*", text))
    verdicts = {rule.SURVIVE, rule.KEPT, rule.WEAKENED, rule.LOST, rule.IN_PART}
    sites = {"survives", "weakened", "lost", "not adaptive"}
    columns = {"R²", "slope", "spread", "worst", "worth", "loses ≤"}
    assert verdicts | {rule.NOTHING_TO_SURVIVE} | sites | columns <= bold


def millions(ratio, use_bias):
    """Parameters of SE-ResNet-50, which test_costs.py holds against the built network."""
    added = (n * theory.parameters(c, ratio, use_bias=use_bias) for c, n in STAGES)
    return f"{(RESNET50 + sum(added)) / 1e6:.2f}"


def test_figures_of_the_paper_beside_ours():
    rows = re.findall(
        r"^\| (\d+) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|$", TEXTS[Path("docs/insert.md")], re.M
    )
    assert [int(row[0]) for row in rows] == [2, 4, 8, 16, 32]
    for ratio, without, with_biases in rows:
        assert without == millions(int(ratio), use_bias=False)
        assert with_biases == millions(int(ratio), use_bias=True)
    figures = [millions(16, use_bias=use_bias) for use_bias in (False, True)]
    ours = "{} million parameters without biases and {} with".format(*figures)
    assert ours in " ".join(TEXTS[Path("README.md")].split())


def change_of_none(samples):
    """The upper end of the interval where no sample changes."""
    hits = np.ones(samples, bool)
    return outcome._change(hits, hits)[1][1]


WORDS = {2: "two", 3: "three"}
# Page, what it says, and the constants that it must say it of.
STATED = [
    ("verify", "vary by less than {:g} steps: only their level", [rule.ADAPTIVE_STEPS]),
    ("verify", "R² ≥ {:g}, slope within 1 ± {:g}", [rule.MIN_R2, rule._SLOPE_TOLERANCE]),
    ("verify", "varies by {:g} steps has R² ≥ {:g}", [rule.CHANNEL_STEPS, rule.MIN_CHANNEL_R2]),
    ("verify", "R² < {:g}, slope off by more than {:g}", [rule._LOST_R2, rule._LOST_SLOPE]),
    ("verify", "none is lost and W ≥ {:g}", [rule.MIN_WORK]),
    ("verify", "at least {} samples, held out", [verdict.MIN_SAMPLES]),
    ("glossary", "vary by less than {:g} steps", [rule.ADAPTIVE_STEPS]),
    ("glossary", "W is at least {:g}", [rule.MIN_WORK]),
    ("glossary", "W is below {:g}", [rule.MIN_WORK]),
    ("first_hour", "at least {} samples", [verdict.MIN_SAMPLES]),
    ("first_hour", "Above {:.0%}", [convert._MAX_OUTPUT_ERROR]),
    ("devices", "{} accelerators", [len(npu.ACCELERATORS)]),
    ("sites", "agree to {:.0e}", [matrices._MAX_DIFFERENCE]),
    ("search", "fewer than {} seeds", [WORDS[scores.MIN_SEEDS]]),
    ("search", "Up to {} combinations", [exhaustive.LIMIT]),
    ("search", "up to {} training samples", [samples._CALIBRATION]),
    ("search", "up to {:,} validation samples, for the metric", [samples._SCORED]),
    ("search", "up to {} validation samples, none", [samples._VERIFIED]),
    ("search", "quartiles of {} single inferences", [latency._MIN_RUNS]),
    ("machines", "After {} trials", [slot._RECYCLE]),
    ("machines", "killed {} seconds later", [WORDS[slot._GRACE]]),
    ("machines", "ended {} times without notice", [WORDS[begun.MANY]]),
]


def says(page, text, values):
    """Whether a page says these figures."""
    said = text.format(*values).replace("%", " %").replace("1e-06", "1e-6")
    return said in " ".join(TEXTS[Path(f"docs/{page}.md")].split())


@pytest.mark.parametrize(("page", "text", "values"), STATED, ids=lambda value: str(value)[:30])
def test_figures_are_the_constants(page, text, values):
    assert says(page, text, values)
    assert not says(page, text, [7] * len(values))


def test_how_many_samples_show_a_hundredth():
    assert "0.01 takes 200 of them" in TEXTS[Path("docs/deploy.md")]
    assert change_of_none(190) > 0.01 >= change_of_none(200)
