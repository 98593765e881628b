"""The rule on gates made up for it; test_verdict.py has it on real files."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from keras_se.sites.statistics import spread
from keras_se.verification.reports.gate_report import SiteVerdict
from keras_se.verification.rule import (
    Resolution,
    fails_likewise,
    judge,
    measures,
    r_squared,
    resolution_of,
    suppressed,
    verdict_of,
)

RNG = np.random.default_rng(0)
GATES = 0.5 + 0.1 * RNG.standard_normal((200, 6))
INT8 = resolution_of("sigmoid", GATES, "int8", 255 / 256)
STEP = 1 / 256


def coded(gates):
    return np.clip(np.round(gates * 256), 0, 255) / 256


def test_a_rounded_gate_survives():
    found = judge(GATES, coded(GATES), INT8)
    assert (found.verdict, found.reason) == (
        "survives",
        "follows the reference's gates sample by sample",
    )


def frozen(q):
    return np.tile(q.mean(axis=0), (len(q), 1))


def scaled(factor):
    return lambda q: q.mean(axis=0) + factor * (q - q.mean(axis=0))


def half_frozen(q):
    return np.where(np.arange(len(q))[:, None] % 2 == 0, q, q.mean(axis=0))


def one_channel(value):
    def change(q):
        q = q.copy()
        q[:, 2] = q[:, 2].mean() if value is None else value
        return q

    return change


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        (frozen, "lost", "R² of"),
        (half_frozen, "lost", "R² of"),
        (lambda q: np.roll(q, 1, axis=1), "lost", "R² of"),
        (lambda q: np.roll(q, 1, axis=0), "lost", "R² of"),
        (lambda q: np.minimum(q, 0.5), "lost", "R² of"),
        (lambda q: np.minimum(q, 0.56), "weakened", "R² of"),
        (scaled(1.15), "weakened", "slope of 1.1"),
        (scaled(0.85), "weakened", "slope of 0.8"),
        (scaled(0.65), "weakened", "R² of"),
        (one_channel(np.nan), "lost", "shipped gates are NaN"),
    ],
)
def test_sabotage_fails(change, verdict, reason):
    found = judge(GATES, change(coded(GATES)), INT8)
    assert found.verdict == verdict
    assert found.reason.startswith(reason)


def test_blame_asks_the_test_that_failed():
    """A replay is blamed if it fails the same test, at the same channel."""
    dead = judge(GATES, one_channel(0.0)(coded(GATES)), INT8).fault
    assert (dead.test, dead.channel) == ("r2", None)
    many = 0.5 + 0.1 * RNG.standard_normal((200, 64))
    resolution = resolution_of("sigmoid", many, "int8")
    fault = judge(many, one_channel(0.4)(coded(many)), resolution).fault
    assert (fault.test, fault.channel) == ("channel", 2)
    assert not fails_likewise(fault, many, coded(many), resolution)
    assert fails_likewise(fault, many, one_channel(0.45)(many), resolution)
    other = coded(many)
    other[:, 3] = 0.4  # another channel's loss is not this one's
    assert not fails_likewise(fault, many, other, resolution)
    assert fails_likewise(fault, many, np.full_like(many, np.nan), resolution)


def test_one_frozen_channel_of_many():
    many = 0.5 + 0.1 * RNG.standard_normal((200, 64))
    many[:, 2] = 0.5 + 0.03 * RNG.standard_normal(200)
    found = judge(many, one_channel(None)(coded(many)), resolution_of("sigmoid", many, "int8"))
    assert found.figures["r2"] > 0.99
    assert found.reason.startswith("channel 2: R² of")


def test_a_steady_channel_must_keep_its_level():
    many = 0.5 + 0.1 * RNG.standard_normal((200, 64))
    many[:, 2] = 0.3
    for value, fault in (
        (0.3 + 1.0 * STEP, ""),
        (0.3 + 6.0 * STEP, "channel 2: its level is off by"),
    ):
        found = judge(many, one_channel(value)(coded(many)), resolution_of("sigmoid", many, "int8"))
        assert found.reason.startswith(fault or "follows")


def test_gates_that_do_not_adapt_are_judged_by_their_level():
    steady = np.full((40, 4), 0.3) + 0.2 * STEP * RNG.standard_normal((40, 4))
    resolution = resolution_of("sigmoid", steady, "int8")
    assert judge(steady, coded(steady), resolution).verdict == "not adaptive"
    assert judge(steady, steady + 1.5 * STEP, resolution).reason.startswith(
        "level: rms error of 1."
    )
    assert judge(steady, steady + 3.0 * STEP, resolution).reason.startswith("channel")
    assert (
        judge(steady, one_channel(0.0)(steady), resolution).reason
        == "channel 2 is dead in the file only"
    )


def test_the_figures_against_scipy_and_the_formulas():
    q = coded(GATES + 0.02 * RNG.standard_normal(GATES.shape))
    found = measures(GATES, q, INT8)
    centred = GATES - GATES.mean(axis=0)
    assert found["r2"] == pytest.approx(1 - ((q - GATES) ** 2).sum() / (centred**2).sum())
    assert found["slope"] == pytest.approx((centred * q).sum() / (centred**2).sum())
    assert found["spread"] == pytest.approx(np.sqrt(GATES.var(axis=0).mean()) / STEP)
    assert found["p99_error"] == pytest.approx(np.quantile(np.abs(q - GATES), 0.99))
    ranks = [spearmanr(a, b).statistic for a, b in zip(GATES, q, strict=True)]
    assert found["rank_correlation"] == pytest.approx(np.mean(ranks))
    samples = [pearsonr(a, b).statistic for a, b in zip(GATES.T, q.T, strict=True)]
    assert found["sample_correlation"] == pytest.approx(np.mean(samples))
    assert found["cosine"] == pytest.approx(
        (GATES * q).sum() / np.sqrt((GATES**2).sum() * (q**2).sum())
    )
    assert set(found) <= {field.name for field in dataclasses.fields(SiteVerdict)}


def test_saturated_and_clipped():
    top = np.full((10, 2), 0.9)
    top[:5] = 0.2
    found = measures(top, np.where(top > 0.5, 255 / 256, 0.2), INT8)
    assert found["saturated"] == 0.5
    assert found["clipped"] == 0.5  # a tenth above all float gates is outside of their range


def test_resolutions():
    assert resolution_of("sigmoid", GATES, "int8").step == STEP
    assert resolution_of("one_plus_tanh", GATES, "int8").step == 1 / 128
    assert resolution_of("sigmoid", GATES, "float16").step == STEP / 8
    assert resolution_of("sigmoid", GATES, "float32").step == 1e-5
    assert resolution_of("relu", np.array([[0.0, 2.0]]), "int8").step == pytest.approx(2 / 255)
    assert resolution_of("unknown", np.array([[0.0, 2.0]]), "int8").ceiling == np.inf
    # The widened step: v from -1.386 to 1.386 in 255 steps of .01087, and a slope of .16.
    ends = resolution_of("sigmoid", np.array([[0.2], [0.8]]), "int8")
    assert ends.level[0] == pytest.approx(np.hypot(STEP, 0.16 * 2 * np.log(4) / 255), rel=1e-3)


def test_gates_above_the_ceiling_are_no_error():
    gates = np.linspace(0.9, 0.9999, 60).reshape(60, 1)
    found = judge(gates, coded(gates), resolution_of("sigmoid", gates, "int8", 255 / 256))
    assert found.verdict == "survives"


def test_small_functions():
    assert r_squared(np.ones((4, 2)), np.zeros((4, 2))) is None
    assert spread(np.array([[0.0], [2.0]])) == 1.0
    assert suppressed(np.array([[0.1, 0.19, 0.3]]), 0.2) == (0, 1)
    assert suppressed(np.array([[0.1, 0.19, 0.3]]), 0.2, 0.02) == (0,)
    constant = measures(
        np.ones((4, 2)), np.ones((4, 2)), Resolution(STEP, np.inf, np.full(2, STEP))
    )
    assert (constant["r2"], constant["slope"], constant["spread"]) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("grades", "work", "expected", "strict"),
    [
        (["survives", "not adaptive"], 0.99, "the gates survive", "the gates survive"),
        (["survives"], None, "the gates survive", "the gates survive"),
        (["survives", "weakened"], 0.9, "SE's work is kept", "gates are weakened"),
        (["survives", "weakened"], 0.899, "gates are lost", "gates are lost"),
        (["weakened"], None, "gates are weakened", "gates are weakened"),
        (["survives", "lost"], 0.99, "gates are lost", "gates are lost"),
        (["survives"], 0.5, "gates are lost", "gates are lost"),
        (["not adaptive"], 0.0, "nothing to survive", "nothing to survive"),
    ],
)
def test_the_verdict_on_a_file(grades, work, expected, strict):
    assert verdict_of(grades, work, False) == expected
    assert verdict_of(grades, work, True) == strict
    in_part = "gates are lost" if "lost" in grades else "judged in part"
    assert verdict_of(grades, work, False, is_whole=False) == in_part
