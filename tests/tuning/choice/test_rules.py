import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_se.errors import InputError
from tuning import Cheapest, ScoreTable, StructuralRisk
from tuning.choice.comparison import compare_with_best, dunnett_quantile

NAN = math.nan
A, B = (0.1123, 0.2371, 0.2506), (0.2123, 0.2371, 0.4506)
# By hand, on no grid: B - A is .1, 0, .2, of mean .1 and variance .01, of which each score has
# half; SE is √(.01 / 3), q Student's t with 2 degrees of freedom.
MARGIN = 2.9199856 * math.sqrt(0.01 / 3)
AGAIN = dunnett_quantile(2, 2) / dunnett_quantile(1, 2) * MARGIN  # of a second look


def table(*rows, costs=None, direction="min", first_seeds=None, complexity=None):
    costs = costs or tuple(range(len(rows), 0, -1))
    names = "abcdefghijklmnop"[: len(rows)]
    return ScoreTable(tuple(names), rows, costs, complexity or costs, direction, first_seeds)


# --- The bounds -----------------------------------------------------------------------------------


def test_two_candidates_by_hand():
    decision = Cheapest(1.0).choose(table(A, B))
    a, b = decision.standings
    assert decision.noise == pytest.approx(math.sqrt(0.005))
    assert decision.degrees == 2
    assert decision.margin == pytest.approx(MARGIN)
    assert (a.difference, b.difference) == pytest.approx((0, 0.1))
    assert (a.upper, b.upper) == pytest.approx((MARGIN - 0.1, MARGIN + 0.1))
    assert (a.mean, b.mean) == pytest.approx((0.2, 0.3))
    coarse = Cheapest(1.0).choose(table((0.1, 0.2, 0.3), (0.2, 0.2, 0.5)))  # steps of .1
    assert coarse.noise == pytest.approx(math.sqrt(0.005 + 0.1**2 / 6))


def test_two_candidates_are_a_paired_t_test():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(2, 7)) + rng.normal(size=7)
    found = compare_with_best(losses, np.ones(2), losses)
    interval = stats.ttest_rel(*losses).confidence_interval(0.90)  # one side of it has 95 %
    assert found.upper[1 - found.best] == pytest.approx(max(map(abs, interval)))


def test_noise_is_the_residual_of_a_fit_by_candidate_and_seed():
    rng = np.random.default_rng(1)
    losses = rng.normal(size=(4, 5)) + 10 * rng.normal(size=5)
    dummies = np.array([[*np.eye(4)[i], *np.eye(5)[j]] for i in range(4) for j in range(5)])
    _, _, rank, _ = np.linalg.lstsq(dummies, losses.ravel())
    fitted = dummies @ np.linalg.lstsq(dummies, losses.ravel())[0]
    found = compare_with_best(losses, np.ones(4), losses)
    assert found.degrees == 20 - rank == 12
    assert found.noise**2 == pytest.approx(((losses.ravel() - fitted) ** 2).sum() / 12)
    assert found.margin == pytest.approx(dunnett_quantile(3, 12) * found.noise * math.sqrt(2 / 5))


def test_what_a_seed_adds_to_all_candidates_changes_nothing():
    seeds = np.array([5.0, -7.0, 2.0])
    there, here = (Cheapest(0.3).choose(table(*rows)) for rows in ((A + seeds, B + seeds), (A, B)))
    assert there.chosen == here.chosen
    assert there.margin == pytest.approx(here.margin, rel=1e-4)  # the grid is sought to 5 digits


# --- Cheapest -------------------------------------------------------------------------------------


def test_the_cheapest_that_is_shown():
    decision = Cheapest(0.27).choose(table(A, B))
    assert (decision.chosen, decision.best, decision.resolved) == ("b", "a", True)
    assert decision.tied == ("a", "b")
    assert decision.sentence == (
        "b is the cheapest of 2 candidates on 3 seeds that is shown to lose less than 0.27: "
        "at most 0.269 against the best (95 %)."
    )


def test_not_significantly_worse_does_not_choose():
    decision = Cheapest(0.26).choose(table(A, B))
    assert "b" in decision.tied
    assert (decision.chosen, decision.resolved) == ("a", True)
    assert decision.undecided == ("b",)
    assert decision.sentence.endswith("Cheaper, and neither shown to nor not: b.")


def test_seeds_are_asked_for_while_nothing_cheaper_could_be_shown():
    decision = Cheapest(0.1).choose(table(A, B))  # a is shown by its lead, b may yet be within
    assert (decision.chosen, decision.resolved, decision.further) == ("a", False, ("a", "b"))
    assert decision.seeds_wanted == 10
    wanted = Cheapest(0.1, max_seeds=99).choose(table(A, B)).seeds_wanted
    assert wanted == math.ceil(3 * (AGAIN / 0.05) ** 2)
    assert decision.sentence == (
        "Not resolved by 2 candidates on 3 seeds: differences up to 0.169 may be noise, the "
        "tolerance is 0.1; a is the best so far. Each of a, b should have 10 seeds in all; about "
        f"{math.ceil(3 * (AGAIN / 0.1) ** 2)} are needed before anything can be shown."
    )


def test_a_lead_resolves_where_no_cheaper_candidate_could_be_within():
    decision = Cheapest(0.1).choose(table(A, B, costs=(1, 2)))
    assert (decision.chosen, decision.resolved, decision.further) == ("a", True, ())
    assert decision.standings[0].upper == pytest.approx(MARGIN - 0.1)
    far = tuple(score + 1 for score in A)
    assert Cheapest(0.1).choose(table(A, B, far, costs=(1, 2, 0.5))).chosen == "a"


def test_at_most_max_seeds_are_asked_for_and_then_the_best_mean_is_taken():
    assert Cheapest(0.02).choose(table(A, B)).seeds_wanted == 10
    assert Cheapest(0.02, max_seeds=4).choose(table(A, B)).seeds_wanted == 4
    decision = Cheapest(0.02, max_seeds=3).choose(table(A, B))
    assert (decision.chosen, decision.resolved, decision.further) == ("a", False, ())
    assert decision.seeds_wanted == decision.seeds == 3
    assert decision.sentence.startswith("Not resolved by 2 candidates on 3 seeds: ")
    assert decision.sentence.endswith(
        f"a, of the best mean, is taken. About {math.ceil(3 * (AGAIN / 0.02) ** 2)} seeds would be "
        "needed."
    )


def test_further_seeds_go_to_who_may_be_best_and_to_cheaper_ones_that_may_be_within():
    rng = np.random.default_rng(2)
    noise = 0.05 * rng.normal(size=(5, 3))
    noise -= noise.mean(axis=1, keepdims=True)  # the means are the truth
    means = np.array([0.0, 0.05, 0.15, 0.15, 2.0])
    rows = (means[:, None] + noise).tolist()
    margin = Cheapest(1.0).choose(table(*rows)).margin
    assert 0.08 < margin < 0.15
    decision = Cheapest(margin - 0.01).choose(table(*rows, costs=(3, 9, 8, 2, 1)))
    assert not decision.resolved
    assert decision.tied == ("a", "b")
    # c is dearer than a and told from it, e is far beyond; d may lose less than the tolerance.
    assert decision.further == ("a", "b", "d")
    assert decision.undecided == ("d",)


def test_added_seeds_sharpen_the_means_and_leave_the_noise():
    c = (0.9, 1.0, 1.2)
    first = Cheapest(0.1).choose(table(A, B, c))
    wide = [[*A, 0.1, 0.2, 0.3], [*B, 0.2, 0.2, 0.5], [*c, NAN, NAN, NAN]]
    second = Cheapest(0.1).choose(table(*wide, first_seeds=3))
    assert (second.noise, second.degrees) == (first.noise, first.degrees)
    # A second look at each of two further candidates.
    quantiles = dunnett_quantile(2, 4), dunnett_quantile(4, 4)
    assert second.margin / first.margin * math.sqrt(2) == pytest.approx(quantiles[1] / quantiles[0])
    assert second.dropped == ("c",)
    assert second.sentence.endswith("Ruled out by the first seeds: c.")


def test_what_it_asks_for_suffices():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(4, 400)) * 0.05
    rule = Cheapest(0.04, max_seeds=400)
    first = rule.choose(table(*scores[:, :3]))
    assert 3 < first.seeds_wanted < 400
    second = rule.choose(table(*scores[:, : first.seeds_wanted], first_seeds=3))
    assert second.resolved
    assert second.margin <= 0.02 + 1e-12


def test_equal_cost_is_broken_by_the_order_of_the_space():
    for rows in ((A, B), (B, A)):
        assert Cheapest(1.0).choose(table(*rows, costs=(5, 5))).chosen == "a"


def test_equal_means_are_broken_by_cost_then_order_whatever_their_last_bits():
    rows = ((0.1, 0.2, 0.3), (0.3, 0.1, 0.2), (0.2, 0.3, 0.1))  # means differ by rounding
    assert Cheapest(1e-3, max_seeds=3).choose(table(*rows, costs=(2, 1, 2))).best == "b"
    assert Cheapest(1e-3, max_seeds=3).choose(table(*rows, costs=(2, 2, 2))).best == "a"


def test_without_noise_a_difference_just_below_the_tolerance_is_within():
    rows = ((0.91271, 0.92345, 0.93098), (0.91071, 0.92145, 0.92898))
    decision = Cheapest(0.00202).choose(table(*rows, direction="max"))
    assert (decision.best, decision.chosen) == ("a", "b")
    assert decision.noise == pytest.approx(0, abs=1e-5)


def test_direction():
    accuracy = [[1 - loss for loss in row] for row in (A, B)]
    high, low = (Cheapest(0.1).choose(t) for t in (table(*accuracy, direction="max"), table(A, B)))
    assert (high.best, high.further, high.seeds_wanted) == (low.best, low.further, low.seeds_wanted)
    assert high.margin == pytest.approx(low.margin)
    assert high.standings[1].mean == pytest.approx(0.7)
    assert high.standings[1].difference == pytest.approx(0.1)
    assert Cheapest(0.1, max_seeds=3).choose(table(*accuracy)).best == "b"


# --- Candidates that diverged ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Cheapest(0.27), StructuralRisk(0.0)])
@pytest.mark.parametrize("broken", [NAN, math.inf])
def test_diverged_candidates_change_nothing_but_the_list_of_dropped(rule, broken):
    wild = (0.0, 1e6, broken)
    with_it, without = rule.choose(table(A, B, wild)), rule.choose(table(A, B))
    assert with_it.dropped == ("c",)
    assert with_it.standings[1].upper == without.standings[1].upper
    assert (with_it.chosen, with_it.margin) == (without.chosen, without.margin)


@pytest.mark.parametrize("big", [50.0, 1e9, 1e12, -1e9])
def test_one_huge_finite_loss_does_not_decide(big):
    a, c = (0.300, 0.301, 0.302), (0.500, 0.501, 0.502)
    costs = (30, 20, 10)
    for rule in (Cheapest(0.01, max_seeds=3), StructuralRisk(0.0)):
        decision = rule.choose(table(a, (0.4, big, 0.4), c, costs=costs))
        without = rule.choose(table(a, c, costs=(30, 10)))
        assert (decision.chosen, decision.resolved) == (without.chosen, True) == ("a", True)
        assert decision.margin == without.margin
        assert decision.dropped == ("b",)
        assert decision.sentence.endswith("Dropped, since a run lies far off the others: b.")


def test_two_diverged_candidates_and_one_that_diverges_later():
    a, b, d = (0.300, 0.301, 0.303), (0.304, 0.306, 0.302), (3e5, 2e3, 0.4)
    decision = Cheapest(0.1).choose(table(a, b, (40.0, 0.5, 60.0), d))
    assert (decision.chosen, decision.dropped) == ("b", ("c", "d"))
    later = table([*a, 0.302], [*b, 1e7], [*a, 0.301], first_seeds=3)
    assert Cheapest(0.1).choose(later).dropped == ("b",)


@pytest.mark.parametrize(
    ("direction", "rows"),
    [
        ("max", [(0.001, 0.002, 0.001)] * 4 + [(0.4, 0.5, 0.6)]),  # one of five learns
        ("max", [(0.99, 0.98, 0.991)] * 4 + [(0.1, 0.1, 0.98)]),
        ("min", [(0.03, 0.02, 0.04), (0.6, 0.5, 0.7)]),
        ("min", [(-0.03, -0.02, -0.04), (0.5, -0.3, 0.2)]),
    ],
)
def test_what_is_only_better_or_worse_is_not_far_off(direction, rows):
    assert Cheapest(1.0).choose(table(*rows, direction=direction)).dropped == ()


def test_what_diverges_everywhere_is_compared_all_the_same():
    assert Cheapest(1.0).choose(table((1.0, 1e9, 2.0), (1e9, 3.0, 2.0))).dropped == ()


def test_one_score_on_every_seed_is_said():
    dead = (0.9, 0.9, 0.9)
    decision = Cheapest(0.3).choose(table(A, dead, B))
    assert decision.constant == ("b",)
    assert decision.sentence.endswith(" The same score on every seed, perhaps without learning: b.")
    # Two that learn nothing are no two measurements of the noise.
    twice = Cheapest(0.3).choose(table(A, dead, dead, B))
    assert twice.noise == decision.noise


@pytest.mark.parametrize("rule", [Cheapest(0.1), StructuralRisk(1e-3)])
def test_one_score_in_every_run_tells_nothing(rule):
    decision = rule.choose(table((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), direction="max"))
    assert (decision.chosen, decision.resolved, decision.further) == ("b", False, ())
    if isinstance(rule, Cheapest):
        assert decision.sentence == (
            "Not resolved by 2 candidates on 3 seeds: val_loss is the same in every run and tells "
            "nothing; b, the cheapest, is taken."
        )


def test_a_single_complete_candidate_is_taken():
    decision = Cheapest(0.1).choose(table(A, (NAN, 1, 2)))
    assert (decision.chosen, decision.resolved, decision.noise) == ("a", True, None)
    assert decision.standings[0].upper == 0
    assert "1 candidate on 3 seeds" in decision.sentence


def test_the_last_survivor_of_added_seeds_is_taken():
    wide = [[*A, 0.1], [*B, NAN]]
    decision = Cheapest(0.01).choose(table(*wide, first_seeds=3))
    assert (decision.chosen, decision.resolved) == ("a", True)


# --- StructuralRisk -------------------------------------------------------------------------------


def test_structural_risk_takes_the_lowest_risk_and_lists_the_ties():
    decision = StructuralRisk(0.05).choose(table(A, B, complexity=(4.0, 1.0)))
    assert decision.chosen == "b"  # J: .2 + .2 and .3 + .05
    assert [s.objective for s in decision.standings] == pytest.approx([0.4, 0.35])
    assert [s.mean for s in decision.standings] == pytest.approx([0.2, 0.3])
    assert decision.tied == ("a", "b")
    assert not decision.resolved
    assert decision.further == ()
    assert decision.sentence == (
        "b has the lowest J = L + 0.05·ΣC²/r of 2 candidates on 3 seeds; a cannot be told from it."
    )


def test_structural_risk_is_resolved_alone():
    decision = StructuralRisk(1.0).choose(table(A, B, complexity=(4.0, 1.0)))
    assert (decision.chosen, decision.tied, decision.resolved) == ("b", ("b",), True)
    assert decision.sentence.endswith("of 2 candidates on 3 seeds.")


def test_structural_risk_of_a_metric_that_is_maximized():
    accuracy = [[1 - loss for loss in row] for row in (A, B)]
    pair = table(*accuracy, direction="max", complexity=(4.0, 1.0))
    decision = StructuralRisk(0.05).choose(pair)
    assert decision.chosen == "b"
    assert decision.standings[0].objective == pytest.approx(-0.8 + 0.05 * 4)


def test_both_costs_are_kept_under_their_names():
    (a, _) = StructuralRisk(0.0).choose(table(A, B, costs=(70, 60), complexity=(8, 4))).standings
    assert (a.parameters, a.complexity) == (70, 8)


# --- Form -----------------------------------------------------------------------------------------


def test_a_decision_is_plain_data():
    decision = Cheapest(0.1).choose(table(A, B, (NAN, NAN, NAN)))
    assert json.loads(json.dumps(decision.to_dict()))["further"] == ["a", "b"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.chosen = "b"


def test_long_lists_are_cut_in_the_sentence():
    decision = StructuralRisk(0.0).choose(table(*([A] * 8)))
    assert "; a, b, c, d, e and 2 more cannot be told from it" in decision.sentence
    assert len(decision.tied) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cheapest(0), r"tolerance .* above 0, in the units .* Received: tolerance=0"),
        (lambda: Cheapest(NAN), "Received: tolerance=nan"),
        (lambda: Cheapest(math.inf), "Received: tolerance=inf"),
        (
            lambda: Cheapest(0.1, max_seeds=2),
            r"max_seeds must be at least 3, .* Received: .*=2",
        ),
        (lambda: StructuralRisk(-1), r"weight .* at least 0\. Received: weight=-1"),
        (lambda: StructuralRisk(NAN), "Received: weight=nan"),
        (lambda: Cheapest(0.1).choose(table((NAN, 1, 2))), r"At least one candidate must have"),
        (
            lambda: StructuralRisk(0.1).choose(table((NAN, 1, 2), (1, 2, math.inf))),
            "Received: 2 candidates on 3 seeds, none complete",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- Fewer seeds never mean a cheaper model -------------------------------------------------------


def repeated(means, pattern, times):
    """Scores of the same means and residuals on more seeds."""
    return np.tile(np.asarray(means)[:, None] + pattern, times).tolist()


@settings(deadline=None, max_examples=30)
@given(
    means=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    scale=st.floats(0, 1),
    tolerance=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_with_equal_means_and_noise_more_seeds_are_never_dearer(means, scale, tolerance, seed):
    pattern = scale * np.random.default_rng(seed).normal(size=(len(means), 3))
    pattern -= pattern.mean(axis=1, keepdims=True)
    costs = np.random.default_rng(seed).permutation(len(means)).tolist()
    taken = []
    for times in (1, 2, 4, 16):
        t = table(*repeated(means, pattern, times), costs=costs, first_seeds=3)
        chosen = Cheapest(tolerance, max_seeds=3).choose(t).chosen
        taken.append(costs[t.names.index(chosen)])
    assert taken == sorted(taken, reverse=True)


def test_the_naive_rule_takes_a_cheaper_model_from_fewer_seeds():
    """That the property above can fail: the cheapest "not significantly worse" candidate."""
    pattern = np.array([[0.1, -0.1, 0.0], [-0.1, 0.1, 0.0], [0.1, 0.0, -0.1]])
    means, taken = [0.0, 0.1, 0.2], []
    for times in (1, 2, 4, 16):
        losses = np.array(repeated(means, pattern, times))
        found = compare_with_best(losses, np.array([3, 2, 1]), losses[:, :3])
        taken.append(3 - np.flatnonzero(found.tied).max())
    assert taken == sorted(taken)
    assert taken[0] < taken[-1]


# --- Simulations with known truth -----------------------------------------------------------------

SEARCHES = 400
EDGE = 1.0001  # of the tolerance, which is 1: just not good enough


def simulate(truth, sigma, first, most, rng):
    """One search: the chosen index, the decision, and the indices of the tied set."""
    size = max(first, most)
    scores = np.array(truth)[:, None] + rng.normal(size=size)
    scores = scores + sigma * rng.normal(size=(len(truth), size))
    known = np.full_like(scores, NAN)
    members, seeds = slice(None), first
    while True:
        known[members, :seeds] = scores[members, :seeds]
        t = table(*known[:, :seeds], first_seeds=first)
        decision = Cheapest(1.0, max_seeds=most).choose(t)
        if not decision.further:
            return t.names.index(decision.chosen), decision
        members, seeds = [t.names.index(n) for n in decision.further], decision.seeds_wanted


@functools.cache
def rates(truth, sigma, first, most):
    """How often right, how often wrong as shown, mean regret, mean saving against c*, resolved."""
    rng, truth = np.random.default_rng(0), np.array(truth)
    runs = [simulate(truth, sigma, first, most, rng) for _ in range(SEARCHES)]
    chosen = np.array([index for index, _ in runs])
    best = np.array(["abcdefghijklmnop".index(decision.best) for _, decision in runs])
    resolved = np.array([decision.resolved for _, decision in runs])
    return {
        "right": np.mean(chosen == np.flatnonzero(truth <= 1).max()),
        "shown wrong": np.mean((truth[chosen] > 1) & resolved),
        "regret": truth[chosen].mean(),
        "saving": np.mean(chosen - best),
        "resolved": resolved.mean(),
    }


def at_most(share):
    """A share up to three standard errors of its estimate."""
    return share + 3 * math.sqrt(share * (1 - share) / SEARCHES)


FLAT = (0.0, 0.02, 0.05, 0.1, 2.0, 4.0)  # the cheapest within the tolerance is the fourth


@pytest.mark.parametrize(
    ("candidates", "sigma", "seeds"), [(2, 0.25, 3), (6, 0.5, 3), (2, 0.5, 10), (6, 2.0, 10)]
)
def test_a_candidate_beyond_the_tolerance_is_shown_at_most_once_in_twenty(candidates, sigma, seeds):
    worst = (0.0, *[EDGE] * (candidates - 1))
    assert rates(worst, sigma, seeds, most=seeds)["shown wrong"] <= at_most(0.05)


def test_that_rate_is_reached_and_the_bound_is_not_idle():
    rate = rates((0.0, *[EDGE] * 5), sigma=0.25, first=3, most=3)["shown wrong"]
    assert rate == pytest.approx(0.05, abs=at_most(0.05) - 0.05)


@pytest.mark.parametrize(("candidates", "sigma"), [(2, 0.5), (6, 1.0)])
def test_added_seeds_keep_that_rate(candidates, sigma):
    worst = (0.0, *[EDGE] * (candidates - 1))
    assert rates(worst, sigma, first=3, most=30)["shown wrong"] <= at_most(0.05)


@pytest.mark.parametrize("samples", [20, 100])
def test_an_accuracy_on_few_samples_keeps_that_rate(samples):
    """Equal scores on three seeds are no equal means: without the step this is up to .9."""
    rng, wrong = np.random.default_rng(0), 0
    truth = np.array([0.9, 0.9 - 0.002 * EDGE])
    for _ in range(SEARCHES):
        draws = rng.uniform(size=(3, samples))  # the same samples are hard for both
        scores = (draws < truth[:, None, None]).mean(axis=-1)
        decision = Cheapest(0.002, max_seeds=3).choose(table(*scores, direction="max"))
        wrong += decision.resolved and decision.chosen == "b"
    assert wrong / SEARCHES <= at_most(0.05)


def test_the_truly_best_is_among_the_tied():
    rng, held = np.random.default_rng(0), 0
    for _ in range(SEARCHES):
        losses = (
            np.array([0.0] + [1e-6] * 5)[:, None] + rng.normal(size=(6, 4)) + rng.normal(size=4)
        )
        held += "a" in StructuralRisk(0.0).choose(table(*losses)).tied
    assert held / SEARCHES >= 1 - at_most(0.05)


def test_right_ever_more_often_with_seeds_and_never_outside_the_tolerance():
    few, some, many = (rates(FLAT, 0.5, seeds, seeds) for seeds in (3, 10, 30))
    assert few["right"] < some["right"] < many["right"]
    assert some["right"] > 0.85
    assert many["right"] > 0.99
    assert max(run["shown wrong"] for run in (few, some, many)) == 0
    assert max(run["regret"] for run in (few, some, many)) < 0.1 + 1e-9


def test_added_seeds_find_the_cheapest_that_the_first_seeds_could_not_show():
    first, added = rates(FLAT, 0.7, 3, 3), rates(FLAT, 0.7, 3, 30)
    assert first["resolved"] < 0.3 < 0.95 < added["resolved"]
    assert added["right"] > first["right"] + 0.3


def test_fewer_seeds_save_less():
    savings = [rates(FLAT, 0.5, seeds, seeds)["saving"] for seeds in (3, 10, 30)]
    assert savings == sorted(savings)
    assert savings[0] < savings[-1] / 2


def test_noise_far_above_the_tolerance_is_said():
    run = rates((0.0, *[EDGE] * 5), sigma=4.0, first=3, most=10)
    assert run["resolved"] < 0.02
    assert run["shown wrong"] < 0.02
