import math

import numpy as np
import pytest
from scipy import stats

from keras_se.errors import InputError
from tuning.choice.comparison import dunnett_quantile

# Dunnett 1955, table 1a: one-sided, joint 95 %, k = 2, 5 and 9 treatments besides the control.
PUBLISHED = {5: (2.44, 2.98, 3.30), 15: (2.07, 2.44, 2.67), 10**6: (1.92, 2.23, 2.42)}


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_against_the_published_table(degrees):
    ours = [dunnett_quantile(k, degrees) for k in (2, 5, 9)]
    # Two decimals, computed by hand and machine in 1955: the last one is off by one in places.
    np.testing.assert_allclose(ours, PUBLISHED[degrees], atol=0.0075)


def test_one_comparison_is_students_t():
    assert dunnett_quantile(1, 7) == pytest.approx(stats.t.ppf(0.95, 7), rel=1e-12)


def test_against_an_independent_monte_carlo():
    comparisons, degrees, level = 14, 28, 0.99
    rng, draws = np.random.default_rng(0), 200_000
    z = rng.normal(size=(draws, comparisons + 1))
    s = np.sqrt(rng.chisquare(degrees, size=draws) / degrees)
    largest = (z[:, 1:] - z[:, :1]).max(axis=1) / (math.sqrt(2) * s)
    below = np.mean(largest <= dunnett_quantile(comparisons, degrees, level))
    assert below == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / draws))


def test_against_scipys_multivariate_t():
    correlation = 0.5 * np.eye(4) + 0.5
    t = stats.multivariate_t(shape=correlation, df=12, seed=0)
    assert t.cdf(np.full(4, dunnett_quantile(4, 12))) == pytest.approx(0.95, abs=2e-4)


@pytest.mark.parametrize(("comparisons", "degrees"), [(20, 1), (199, 9751)])
def test_far_ends(comparisons, degrees):
    q = dunnett_quantile(comparisons, degrees)
    bonferroni = stats.t.isf(0.05 / comparisons, degrees)
    assert stats.t.ppf(0.95, degrees) < q < bonferroni
    assert q > dunnett_quantile(comparisons - 1, degrees)
    assert q > dunnett_quantile(comparisons, degrees + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "comparisons=0"),
        ((3, 0), "degrees=0"),
        ((3, 5, 1.0), "level=1.0"),
        ((3, 5, 0.4), "level=0.4"),
        ((3, 5, math.nan), "level=nan"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=rf"at least one comparison.*Received: .*{message}"):
        dunnett_quantile(*arguments)
