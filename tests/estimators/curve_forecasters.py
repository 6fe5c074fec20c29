"""Forecasters with known answers, in place of the network."""

import numpy as np
import scipy.stats


class GaussianDistribution:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def quantile(self, q):
        return self.mean[:, None] + self.std * scipy.stats.norm.ppf(q)

    def cdf(self, y):
        return scipy.stats.norm.cdf(y, self.mean[:, None], self.std)

    def survival(self, y):
        return scipy.stats.norm.sf(y, self.mean[:, None], self.std)


class GaussianForecaster:
    """y_t ~ N(ceiling · (1 - ratio^t), std²) with the ceiling that fits the last value: curves of this family are known.

    Has what decisions need of `LearningCurveExtrapolator`. `asked` counts forecasts, `p_value` is what `misfit` answers.
    """

    ratio, std, p_value = 0.9, 0.01, 1.0
    asked = 0

    def __init__(self, minimize=False, bounds=(0, 1), horizon=None, *, prior="auto", model="learning-curve"):
        self.minimize, self.bounds, self.horizon, self.prior, self.model = minimize, bounds, horizon, prior, model
        type(self).last = self

    @classmethod
    def curve(cls, ceiling, steps):
        return ceiling * (1 - cls.ratio ** np.asarray(steps, dtype=float))

    def fit(self, steps, values):
        low, high = self.bounds
        assert all(low <= value <= high for value in values), (self.bounds, values)
        self.steps, self.values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
        assert np.isfinite(self.values).all()
        assert self.steps.max() <= self.horizon
        self.ceiling = self.values[-1] / (1 - self.ratio ** max(self.steps[-1], 1.0))
        return self

    def predict_distribution(self, steps):
        return GaussianDistribution(self.curve(self.ceiling, steps), self.std)

    def prob_better(self, threshold, steps):
        type(self).asked += 1
        sign = -1 if self.minimize else 1
        return scipy.stats.norm.sf(sign * (threshold - self.curve(self.ceiling, steps)) / self.std)

    def misfit(self):
        return self.p_value


def fresh(**attributes):
    """A class of forecasters with counts of its own."""
    return type("Forecaster", (GaussianForecaster,), attributes)
