import math

import numpy as np
import pytest
from scipy import stats

from keras_se import theory
from keras_se.errors import InputError
from tuning.choice.ratio_fit import fit_ratio

RATIOS = (2, 4, 8, 16)


def losses(power=2.0, sigma=0.0, seeds=5, curvature=0.01, seed=0):
    rng = np.random.default_rng(seed)
    curve = 0.3 + curvature * np.array(RATIOS, "float64") ** power / power
    return curve[:, None] + rng.normal(size=seeds) + sigma * rng.normal(size=(4, seeds))


def test_agrees_with_theory_on_the_mean_losses():
    y = losses(sigma=0.1)
    fit = fit_ratio(RATIOS, y, squares=64**2, weight=1e-3)
    _, kappa = theory.fit_loss(np.array(RATIOS), y.mean(axis=1))
    assert fit.curvature == pytest.approx(kappa)
    assert fit.ratio == pytest.approx(theory.optimal_ratio(64, 1e-3, kappa))


def test_a_parabola_leaves_no_residual_and_a_root_does():
    assert fit_ratio(RATIOS, losses(), 4096, 1e-3).residual == pytest.approx(0, abs=1e-12)
    off = fit_ratio(RATIOS, losses(power=0.5, curvature=1.0, sigma=0.01), 4096, 1e-3)
    assert off.residual > 10 * off.noise


@pytest.fixture(scope="module")
def fits():
    """Fits of 300 sets of losses with noise of σ = 0.3, where the curve is right."""
    return [fit_ratio(RATIOS, losses(sigma=0.3, seed=s), 4096, 1e-3) for s in range(300)]


def test_residual_and_noise_agree_where_the_curve_is_right(fits):
    expected = 0.3**2 / 5
    assert np.mean([fit.noise**2 for fit in fits]) == pytest.approx(expected, rel=0.1)
    assert np.mean([fit.residual**2 for fit in fits]) == pytest.approx(expected, rel=0.2)


def test_interval_by_students_t():
    y = losses(sigma=0.1)
    x = np.array(RATIOS) ** 2 / 2
    slopes = [np.polyfit(x, column, 1)[0] for column in y.T]
    expected = stats.t.interval(0.95, 4, np.mean(slopes), stats.sem(slopes))
    assert fit_ratio(RATIOS, y, 4096, 1e-3).curvature_interval == pytest.approx(expected)


def test_the_interval_holds_the_truth_as_often_as_it_says(fits):
    truth = (1e-3 * 4096 / 0.01) ** (1 / 3)
    held = np.mean([fit.ratio_interval[0] <= truth <= fit.ratio_interval[1] for fit in fits])
    assert held == pytest.approx(0.95, abs=0.038)  # three standard errors


def test_a_falling_loss_has_no_optimum():
    fit = fit_ratio(RATIOS, losses(curvature=-0.01), 4096, 1e-3)
    assert fit.ratio == math.inf
    assert fit.ratio_interval == (math.inf, math.inf)


def test_two_ratios_leave_nothing_to_judge_the_curve_by():
    assert fit_ratio((2, 4), losses()[:2], 4096, 1e-3).residual is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((RATIOS, np.ones((3, 3)), 1, 1), r"losses of each on two.*Received: .*shape \(3, 3\)"),
        (((2, 2), np.ones((2, 3)), 1, 1), r"different ratios.*Received: 2 ratios"),
        (((2, 4), np.ones((2, 1)), 1, 1), r"two or more seeds.*shape \(2, 1\)"),
        (((2, 4), np.array([[1, np.nan], [1, 2]]), 1, 1), r"finite losses\. Received: 1 that"),
        (((2, 4), np.ones((2, 2)), 0, 1), r"squares and a weight above 0\. Received: squares=0"),
        (((2, 4), np.ones((2, 2)), 1, 0), "weight=0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        fit_ratio(*arguments)
