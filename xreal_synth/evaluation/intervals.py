"""Figures with intervals: bootstrap and jackknife over patients, whose images come and go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

BOOTSTRAP_DRAWS: Final = 2000
LEAST_DRAWS: Final = 400
MOST_WEIGHTS: Final = 8_000_000
"""Of draws times images; beyond it fewer draws are made, so that memory stays bounded."""

JACKKNIFE_GROUPS: Final = 60
Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""A figure of how often each image counts: weights [D, N] -> [D], NaN in draws that do not have it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean (or another statistic) with its 95% interval over n images."""

    value: float
    ci_low: float
    ci_high: float
    n: int

    def __format__(self, form: str) -> str:
        """`0.943 [0.935, 0.950]` in the form of each number; without one as `str`, which has three digits and n."""
        return f"{self.value:{form}} [{self.ci_low:{form}}, {self.ci_high:{form}}]" if form else str(self)

    def __str__(self) -> str:
        return f"{self:.3f} n={self.n}"

    @property
    def known(self) -> bool:
        """Whether it could be measured."""
        return not np.isnan(self.value)


def unknown(n: int = 0) -> Estimate:
    """A figure that these images do not have."""
    return Estimate(float("nan"), float("nan"), float("nan"), n)


def figure(values: Sequence[float]) -> Estimate:
    """Mean and bootstrap interval over images of the values that are not NaN."""
    return Bootstrap([str(at) for at in range(len(values))]).mean(np.asarray(values, np.float64))


class Bootstrap:
    """Resamples patients: `weights` [D, N] say how often each image is in each draw."""

    def __init__(self, patients: Sequence[str], *, draws: int | None = None, seed: int = 0) -> None:
        if draws is None:
            draws = max(LEAST_DRAWS, min(BOOTSTRAP_DRAWS, MOST_WEIGHTS // max(1, len(patients))))
        names, of_image = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        count = len(names)
        chosen = np.random.default_rng(seed).integers(0, max(1, count), (draws, count))
        times = np.zeros((draws, count), np.float64)
        np.add.at(times, (np.arange(draws)[:, None], chosen), 1.0)
        self.weights: Array = times[:, of_image]
        self._of_image = of_image
        self._patients = count

    def interval(self, statistic: Statistic, n: int) -> Estimate:
        """The statistic of all images, and the middle 95% of the draws that have it."""
        if not self.weights.shape[1] or not n:
            return unknown()
        return estimated(self.draws(statistic), n)

    def draws(self, statistic: Statistic) -> Array:
        """The statistic of all images, then of every draw [1 + D]: what `estimated` makes an interval of."""
        return np.concatenate([statistic(np.ones((1, self.weights.shape[1]))), statistic(self.weights)])

    def mean(self, values: npt.NDArray[Any]) -> Estimate:
        """Mean of the values [N] that are not NaN."""
        values = np.asarray(values, np.float64)
        return self.interval(mean_of(values), int((~np.isnan(values)).sum()))

    def ratio(self, over: Array, under: Array) -> Estimate:
        """Mean of `over` [N] divided by the mean of `under` [N], image by image resampled together."""
        return self.interval(lambda weights: divided(weights @ over, weights @ under), len(over))

    def jackknife(self, statistic: Callable[[npt.NDArray[np.bool_]], float]) -> Estimate:
        """A statistic of a set of images with an interval of +-1.96 jackknife errors over groups of patients.

        For distances between sets, which a bootstrap's repeated images would bias. The statistic takes a bool
        mask [N] of the images kept; it is computed without each patient, or without each of JACKKNIFE_GROUPS
        groups of patients where there are more; there is no interval of fewer than three groups or where one leaves
        fewer than two images.
        """
        group = self.left_out()
        value, counts = statistic(np.ones(len(group), bool)), np.bincount(group)
        if len(counts) < 3 or len(group) - counts.max() < 2:
            return Estimate(value, float("nan"), float("nan"), len(group))
        left = np.asarray([statistic(group != number) for number in range(len(counts))], np.float64)
        error = float(np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()))
        return Estimate(value, value - 1.96 * error, value + 1.96 * error, len(group))

    def left_out(self) -> npt.NDArray[np.int64]:
        """Each image's jackknife group [N]: its patient, or one of JACKKNIFE_GROUPS groups of patients."""
        groups = max(1, min(self._patients, JACKKNIFE_GROUPS))
        return (np.random.default_rng(0).permutation(self._patients) % groups)[self._of_image]

    def mean_over(self, values: Array, other: Bootstrap, under: Array) -> Estimate:
        """Mean of the values [N] divided by the mean of another set's [M], each set resampled by itself."""
        if not len(values) or not len(under) or not under.mean():
            return unknown(len(values))
        draws = min(len(self.weights), len(other.weights))
        over, below = (
            divided(one.weights[:draws] @ part, one.weights[:draws].sum(axis=1))
            for one, part in ((self, values), (other, under))
        )
        return estimated(np.append(values.mean() / under.mean(), over / below), len(values))


def mean_of(values: Array) -> Statistic:
    """The mean of the values [N] (or [N, L] by column) that are not NaN, as a statistic [D, N] -> [D] ([D, L])."""
    kept = ~np.isnan(values)
    filled, known = np.where(kept, values, 0.0), kept.astype(np.float64)
    return lambda weights: divided(weights @ filled, weights @ known)


def estimated(draws: Array, n: int) -> Estimate:
    """A figure of all images and of every draw [1 + D] -> the first, with the middle 95% of the others known."""
    value, drawn = float(draws[0]), draws[1:][~np.isnan(draws[1:])]
    if np.isnan(value) or not len(drawn):
        return unknown(n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n)


def proportion(part: int, whole: int, method: Literal["wilson", "exact"] = "wilson") -> Estimate:
    """A share of independent trials with Wilson's 95% interval, or the exact binomial one."""
    if not whole:
        return unknown()
    low, high = binomtest(part, whole).proportion_ci(0.95, method=method)
    return Estimate(part / whole, float(low), float(high), whole)


def spread(values: Sequence[float], n: int) -> Estimate:
    """Mean and middle 95% of repeated measurements, each on n images."""
    return estimated(np.append(np.mean(values), values), n)


def divided(over: Array, under: Array) -> Array:
    """over / under of one shape, NaN where that is a division by zero."""
    return np.asarray(np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0))


def brief(figure: Estimate) -> str:
    """`.943 [.935, .950]`; an en dash where there is none."""
    if not figure.known:
        return "–"  # noqa: RUF001
    return f"{_short(figure.value)} [{_short(figure.ci_low)}, {_short(figure.ci_high)}]"


def _short(value: float) -> str:
    """Three digits, without the zero before the point; a small or large number in its own way."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    if abs(value) < 10:
        return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return f"{value:.1f}"
