"""A verdict as text: one conclusion, the accuracy, the sites, and what to do."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part, figure, listed, rendered
from keras_se.verification.rule import (
    IN_PART,
    KEPT,
    LOST,
    NOTHING_TO_SURVIVE,
    SURVIVE,
    WEAKENED,
)

if TYPE_CHECKING:
    from keras_se.verification.outcome import Interval, Outcome
    from keras_se.verification.reports.gate_report import GateReport, SiteVerdict

Place = Literal["python", "command line"]

_LEGEND = (
    "R² 1: follows the reference's gates; 0: constant. slope: 1 if as strongly. spread: of the "
    "gates over samples, in steps of the format. worst: R² of the worst channel. worth: share of "
    "SE's work that is lost if this site alone is constant."
)
_KINDS = {None: "-", True: "integers", False: "float"}  # by whether gates are quantized
_OTHER = "check that the file is of this network, with these weights"


def conclusion(report: "GateReport") -> str:
    """Returns one sentence: ship, do not ship, or nothing to survive, and why."""
    failed = [site.name for site in report.sites.values() if site.failed]
    lost = [site.name for site in report.sites.values() if site.verdict == "lost"]
    kept = _kept(report.work_kept)
    must = ", and every site must survive" if report.strict else ""
    sentences = {
        SURVIVE: f"Ship: the gates survive at every site{_adapting(report)}{kept and f'; {kept}'}.",
        KEPT: f"Ship: {kept}, though gates are weakened at {listed(failed)}.",
        WEAKENED: f"Do not ship: gates are weakened at {listed(failed)}{must}.",
        LOST: "Do not ship: gates are lost"
        f"{(lost and f' at {listed(lost)}') or ''}{kept and f'; {kept}'}.",
        IN_PART: f"Do not ship: the reference has no site for {listed(report.unjudged)}.",
        NOTHING_TO_SURVIVE: "Nothing to survive: no gate varies over these samples by more than "
        "the format can show.",
    }
    sentence = sentences[report.verdict]
    if report.outcome.is_worse:
        sentence = sentence.replace("Ship: ", "The file is worse than its reference, though ", 1)
    return sentence


def _adapting(report: "GateReport") -> str:
    adaptive = sum(site.verdict != "not adaptive" for site in report.sites.values())
    of_all = len(report.sites)
    return "" if adaptive == of_all else f" that adapts ({adaptive} of {of_all})"


def _kept(work: float | None) -> str:
    if work is None:
        return ""
    percent = math.floor(100.0 * work + 1e-3)  # rounded up, a loss could look like a pass
    return f"{percent}% of SE's work is kept" if percent > 0 else "none of SE's work is kept"


def described(report: "GateReport", place: Place) -> str:
    """Returns the report as text of at most 80 columns."""
    return rendered(verdict_parts(report, place))


def verdict_parts(report: "GateReport", place: Place) -> Iterator[Part]:
    """Yields the conclusion, what it rests on, the sites, and what to do at a place."""
    yield conclusion(report)
    yield from evidence(report)
    yield sites_table(report)
    yield from legend(report)
    yield from reasons(report)
    yield from advice(report, place)
    yield from _provenance(report)


def evidence(report: "GateReport") -> Iterator[str]:
    """Yields what the file and constant gates do to the outputs, and what was not judged."""
    yield from _clipped(report)
    yield from _outcome(report.outcome)
    yield from _chance(report)
    yield from _effect(report)
    for site in report.unjudged:
        yield f"Not judged: {site}, for which the reference has no site."


def _clipped(report: "GateReport") -> Iterator[str]:
    for name, found in report.clipped.items():
        which = "" if len(report.clipped) == 1 else f" {name!r}"
        yield (
            f"The file takes inputs{which} from {found.low:.4g} to {found.high:.4g}; these samples "
            f"reach from {found.least:.4g} to {found.greatest:.4g}, and {found.share:.1%} of their "
            "values are clipped. Either it was calibrated on other data, or the samples are on "
            "another scale."
        )


def _outcome(outcome: "Outcome") -> Iterator[str]:
    error = "" if outcome.error is None else f"outputs off by {outcome.error:.1%} of their spread"
    if outcome.metric == "accuracy":
        file = "not run" if outcome.file is None else f"{outcome.file:.4f}"
        change = ""
        if outcome.difference is not None and outcome.interval is not None:
            change = f" ({outcome.difference:+.4f}; 95 % {interval_text(outcome.interval)})"
        yield f"Accuracy: reference {outcome.reference:.4f}, file {file}{change}."
    elif outcome.file is not None:
        yield f"The file gives the class of the reference to {outcome.file:.1%} of the samples."
    if error:
        yield f"File against reference: {error}, root mean square."


def _chance(report: "GateReport") -> Iterator[str]:
    share, accuracy = report.outcome.commonest, report.outcome.reference
    if share is None or accuracy is None:
        return
    if accuracy <= share + 2.0 * math.sqrt(share * (1.0 - share) / report.samples):
        yield (
            "The reference is not shown to be better than its commonest class for all samples "
            f"({share:.4f}): is it trained, and are the inputs on its scale? If it is accurate in "
            "training, its BatchNormalization may still need steps."
        )


def _effect(report: "GateReport") -> Iterator[str]:
    outcome = report.outcome
    if report.constant_error is None:
        # Without the gates of all sites there is no such measure, and the sites say so.
        if all(site.spread is not None for site in report.sites.values()):
            yield "SE's work is not known: outputs of the reference are NaN or infinite."
        return
    if outcome.metric == "accuracy" and outcome.constant_interval is not None:
        yield (
            f"Constant gates in the reference: {outcome.constant:.4f} "
            f"(95 % of the change {interval_text(outcome.constant_interval)}), outputs off by "
            f"{report.constant_error:.1%} of their spread."
        )
    else:
        moved = f"{report.constant_error:.1%} of their spread"
        yield f"Constant gates would move the outputs of the reference by {moved}."
    if report.work_kept is None:
        yield (
            "SE does nothing for these samples: gates fixed at their means would give almost the "
            "same outputs, so that there is no work to keep or to lose."
        )


def interval_text(interval: "Interval") -> str:
    """Returns an interval of a difference in words."""
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def sites_table(report: "GateReport") -> Table:
    """Returns the table of the sites."""
    sites = list(report.sites.values())
    worst = [site.worst_channel for site in sites]
    kept = [site.spread_kept for site in sites]
    columns = [
        names("site", [site.name for site in sites]),
        Column("gate", [site.gate for site in sites], short=None, is_words=True),
        Column("channels", [str(site.channels) for site in sites], short="C"),
        Column("R²", [_bounded(site.r2) for site in sites]),
        Column("slope", [_bounded(site.slope) for site in sites]),
        # A float32 file has no step: the spread in steps says nothing there.
        Column("spread", [figure(None if _is_float32(s) else s.spread, ".1f") for s in sites]),
        Column("worst", [_bounded(found and found[1]) for found in worst]),
        Column("of channel", [str(found[0]) if found else "-" for found in worst], short=None),
        Column("worth", [figure(site.worth, ".2f") for site in sites]),
        Column("spread kept", [figure(value, ".2f") for value in kept], short="kept"),
        Column("computed in", [_KINDS[site.quantized] for site in sites], None, is_words=True),
        Column("partitions", [figure(site.partitions, "d") for site in sites], short=None),
        Column("verdict", [site.verdict for site in sites], is_words=True),
    ]
    if all(value is None for value in kept):
        columns = [column for column in columns if column.title != "spread kept"]
    return Table("Sites", columns)


def _bounded(value: float | None) -> str:
    """A figure that has no lower bound, as R² of gates that hardly vary."""
    if value is not None and abs(value) >= 100.0:
        return ">99" if value > 0.0 else "<-99"
    return figure(value, ".3f")


def legend(report: "GateReport") -> Iterator[str]:
    """Yields what the columns of the table mean."""
    yield _LEGEND
    if any(site.verdict == "not adaptive" for site in report.sites.values()):
        yield (
            "not adaptive: the gates vary by less than 1.5 steps of the format, so that only their "
            "level is judged."
        )


def reasons(report: "GateReport") -> Iterator[str]:
    """Yields why sites failed, and what stress did."""
    for site in report.sites.values():
        if site.failed:
            yield f"{site.name} is {site.verdict}: {site.reason}."
    for name, stress in report.stress.items():
        kept = "" if stress.work_kept is None else f", {stress.work_kept:.0%} of SE's work kept"
        sites = ", ".join(f"{n} {verdict}" for n, (verdict, _) in stress.sites.items())
        yield f"On {name}: {stress.verdict}{kept} ({sites})."


def advice(report: "GateReport", place: Place) -> Iterator[str]:
    """Yields what to do, once for all sites that need it."""
    if report.passed:
        return
    sites = [site for site in report.sites.values() if site.failed]
    by_blame = {blame: [s for s in sites if s.blame == blame] for blame in {s.blame for s in sites}}
    if not sites and report.verdict == LOST:
        yield (
            "Each site survives, and together they lose too much of SE's work: calibrate on more "
            f"data in the range of use, or {_finer(report, place)}."
        )
    yield from _advice_on_se(report, by_blame.get("SE", []), place)
    unknown = [site.name for site in by_blame.get("unknown", [])]
    if unknown:
        yield f"At {listed(unknown)} the maps of the file are not known, nor what lost the gates."
    trunk = [site.name for site in by_blame.get("trunk", [])]
    if trunk and all(map(_is_float32, sites)):
        yield f"At {listed(trunk)} the layers before lost them: {_OTHER}."
    elif trunk:
        yield (
            f"At {listed(trunk)} the layers before lost them, and keeping SE in float will not "
            f"help: calibrate on more data in the range of use, or {_finer(report, place)}."
        )
    trained = [site.name for site in by_blame.get("training", [])]
    if trained:
        yield (
            f"At {listed(trained)} training with compression made them steady: equalize the "
            "channels first, or train longer."
        )


def _advice_on_se(report: "GateReport", sites: "list[SiteVerdict]", place: Place) -> Iterator[str]:
    coarse = [s.name for s in sites if s.quantized is False and not _is_float32(s)]
    if coarse:
        yield (
            f"At {listed(coarse)} SE itself lost them, though the file computes it in float: its "
            "weights are too coarse; take a format with finer ones, such as float16."
        )
    sound = ("survives", "not adaptive")
    helped = [site.name for site in sites if site.quantized and site.in_float in sound]
    if helped:
        # What is in float already must stay so in the next file.
        kept = [s.name for s in report.sites.values() if s.quantized is False]
        in_order = [name for name in report.sites if name in {*helped, *kept}]
        how = _keep_float(report, in_order, place)
        yield f"What to do: keep {listed(helped)} in float: {how}."
    rest = [s.name for s in sites if s.name not in {*coarse, *helped}]
    if rest:
        is_float = all(_is_float32(site) for site in sites)
        more = "" if is_float else ", and keeping it in float is not enough"
        yield f"At {listed(rest)} SE itself lost them{more}: {_OTHER}."


def _is_float32(site: "SiteVerdict") -> bool:
    # No other format has steps as small.
    return not site.quantized and site.step < 1e-4


def _is_of_model(report: "GateReport") -> bool:
    """Whether the reference is a Keras model, and no float file."""
    return report.reference.startswith("model")


def _keep_float(report: "GateReport", names: list[str], place: Place) -> str:
    if not _is_of_model(report):
        if place == "python":
            return "keras_se.repair(float_file, file, x) does"
        return "keras-se repair FLOAT.tflite FILE.tflite OUT.tflite --data X.npz does"
    if place == "python":
        return f"to_tflite(..., keep_float={names})"
    return "keras-se export " + " ".join(f"--keep-float {name}" for name in names)


def _finer(report: "GateReport", place: Place) -> str:
    """What finds a file that passes; of a float file alone channels cannot be equalized."""
    if place == "command line":
        return "let keras-se deploy find a file that passes"
    found = "let keras_se.deploy find a file that passes"
    if not _is_of_model(report):
        return found
    return f"equalize the channels with keras_se.compress.equalize, or {found}"


def _provenance(report: "GateReport") -> Iterator[str]:
    yield f"On {report.samples} samples, {report.held_out}; {report.runtime}."
