"""Calibration of prompts on the user's own items: numbers in the recipe, found without gold and refined with it.

Three things are learned, each only where the items support it:

- A prompt that fits everything is discounted. Of each class's similarities the median is moved half-way to that of all
  classes, and the spread half-way to theirs, so that "something worn" must fit better than it usually does. Where the
  items are of very unequal classes, that would take a frequent class for a generic prompt; it is scaled back there.
- Where the items fall into two heaps, those near some class and those nearer the background, the log-odds of being of
  any class become those of a mixture of two normal distributions with one variance (a logistic function with a slope
  and an offset). Where there is no clear gap, they stay as they are.
- With gold, an offset a class and one slope for all are fitted by penalised logistic regression, starting there.

The numbers go into the recipe (``calibrated:``), so that its version names them.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.base import ClassName, Number

FloatArray = npt.NDArray[np.float64]

MIN_ITEMS: Final = 50
GAP: Final = 3.0
"""How many standard deviations two heaps lie apart for the gap between them to be believed."""
_STRENGTH: Final = 0.5
_UNEVEN, _EVEN = 0.75, 0.95
"""Effective number of classes, as a share of all: no discount below the one, a full one above the other."""
_OFFSET_SD: Final = 1.0
_SLOPE_SD: Final = 0.5
_ROUNDS: Final = 200
_STEPS: Final = 500
_DIGITS: Final = 4

_Gain = Annotated[Number, Field(gt=0.0, le=100.0, allow_inf_nan=False)]
_Bias = Annotated[Number, Field(ge=-1000.0, le=1000.0, allow_inf_nan=False)]


class InClass(BaseModel):
    """Log-odds of being of any of the classes become ``gain * log_odds + bias``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gain: _Gain = 1.0
    bias: _Bias = 0.0


class PromptCalibration(BaseModel):
    """What a prompt LF learned of some items; similarities of a class become ``gain * similarity * scale + bias``.

    scale: of the similarities on which it was learned; with an encoder of another scale it is refused.
    gain, bias: by class; a class that is left out has 1 and 0. in_class: see InClass; None leaves it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[Number, Field(gt=0.0, allow_inf_nan=False)]
    gain: dict[ClassName, _Gain] = Field(default_factory=dict)
    bias: dict[ClassName, _Bias] = Field(default_factory=dict)
    in_class: InClass | None = None


def fit_calibration(
    logits: FloatArray,
    background: FloatArray | None,
    *,
    names: tuple[str, ...],
    scale: float,
    gold: npt.NDArray[np.int64] | None = None,
) -> PromptCalibration:
    """Return a calibration; the same for the same items in any order.

    logits: scaled similarities to the classes, float64, shape (n_items, n_classes). background: log-sum-exp of the
    scaled similarities to the background, shape (n_items,), or None without one. gold: class indices, shape
    (n_items,), -1 where unknown. Raises InvalidRequest if there are under 50 items.
    """
    n, k = logits.shape
    if n < MIN_ITEMS:
        raise InvalidRequest(
            f"prompts are calibrated on {MIN_ITEMS} items or more, got {n}; give more of what is to be labeled"
        )
    # Sums depend on the order of what is added in their last bits.
    order = np.lexsort(logits.T)
    logits = logits[order]
    background = None if background is None else background[order]
    gain, bias = _discount(logits, background) if k > 1 else (np.ones(1), np.zeros(1))
    if gold is not None and k > 1:
        gold = gold[order]
        known = gold >= 0
        if known.any():
            gain, bias = _refined(logits[known], gold[known], gain, bias)
            # Gold tells classes apart; how near an item is to any of them should not move with it.
            bias += float(_log_sum(logits).mean() - _log_sum(logits * gain + bias).mean())
    gain, bias = gain.round(_DIGITS), bias.round(_DIGITS)
    in_class = None if background is None else _gap(_log_sum(logits * gain + bias) - background)
    return PromptCalibration(
        scale=round(scale, 6),
        gain=dict(zip(names, gain.tolist(), strict=True)),
        bias=dict(zip(names, bias.tolist(), strict=True)),
        in_class=in_class,
    )


def _log_sum(logits: FloatArray) -> FloatArray:
    """Return log-sum-exp over the last axis."""
    peak = logits.max(axis=-1, keepdims=True)
    summed: FloatArray = peak[..., 0] + np.log(np.exp(logits - peak).sum(axis=-1))
    return summed


def _discount(logits: FloatArray, background: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Return gain and bias by class that bring location and spread of all classes half-way together."""
    strength = _STRENGTH * _evenness(logits, background)
    location, spread = np.median(logits, axis=0), np.maximum(logits.std(axis=0), 1e-6)
    gain = (np.exp(np.log(spread).mean()) / spread) ** strength
    # gain * (x - location) + location + strength * (mean location - location)
    return gain, location * (1.0 - strength - gain) + strength * location.mean()


def _evenness(logits: FloatArray, background: FloatArray | None) -> float:
    """Return from 0, a few classes have it all, to 1, the items that look like any are of all classes about equally."""
    if background is not None:
        near = _log_sum(logits) - background
        logits = logits[near >= np.quantile(near, 0.3)]
    share = np.exp(logits - _log_sum(logits)[:, None]).mean(axis=0)
    effective = np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()) / logits.shape[1]
    return float(np.clip((effective - _UNEVEN) / (_EVEN - _UNEVEN), 0.0, 1.0))


def _refined(
    logits: FloatArray, gold: npt.NDArray[np.int64], gain: FloatArray, bias: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return gain and bias after gold: an offset a class and one slope, kept near what was there without gold."""
    start = logits * gain + bias
    wanted = np.eye(logits.shape[1])[gold]
    log_slope, offsets = 0.0, np.zeros(logits.shape[1])
    # The curvature of a softmax is at most a half an item (Böhning 1992), so that these steps never overshoot.
    step = 1.0 / (0.5 * len(gold) + 1.0 / _OFFSET_SD**2)
    for _ in range(_STEPS):
        slope = float(np.exp(log_slope))
        moved = slope * start + offsets
        excess = np.exp(moved - _log_sum(moved)[:, None]) - wanted
        spread = slope**2 * float(((start - start.mean(axis=1, keepdims=True)) ** 2).sum())
        offsets = offsets - step * (excess.sum(axis=0) + offsets / _OFFSET_SD**2)
        downhill = slope * float((excess * start).sum()) + log_slope / _SLOPE_SD**2
        log_slope -= downhill / (0.5 * spread + abs(downhill) + 1.0 / _SLOPE_SD**2)
    slope = float(np.exp(log_slope))
    return gain * slope, bias * slope + offsets


class Heaps(NamedTuple):
    """Two normal distributions with one standard deviation; share: of the upper one."""

    low: float
    high: float
    sd: float
    share: float

    def slope(self) -> float:
        """Return by how many nats the log-odds of belonging to the upper one grow with each unit."""
        return (self.high - self.low) / self.sd**2


def two_heaps(values: FloatArray, *, low: float, high: float) -> Heaps:
    """Return the two heaps that some values fall into, by expectation-maximisation.

    low, high: where they are first thought to lie; shape of values: (n,), at least one.
    """
    values = np.sort(values)
    variance, share = max(float(values.var()) / 2, 1e-9), 0.5
    for _ in range(_ROUNDS):
        slope = (high - low) / variance
        offset = np.log(share / (1 - share)) - slope * (high + low) / 2
        upper = 1.0 / (1.0 + np.exp(-np.clip(slope * values + offset, -500, 500)))
        share = float(np.clip(upper.mean(), 0.005, 0.995))
        high = float((upper * values).sum() / max(upper.sum(), 1e-9))
        low = float(((1 - upper) * values).sum() / max((1 - upper).sum(), 1e-9))
        apart = upper * (values - high) ** 2 + (1 - upper) * (values - low) ** 2
        variance = max(float(apart.mean()), 1e-9)
    return Heaps(low, high, variance**0.5, share)


def _gap(log_odds: FloatArray) -> InClass | None:
    """Return slope and offset of the log-odds of belonging to the upper heap; None without a clear gap."""
    low, high = np.quantile(log_odds, [0.2, 0.8])
    heaps = two_heaps(log_odds, low=float(low), high=float(high))
    if heaps.high - heaps.low < GAP * heaps.sd:
        return None
    # How many of these items are of any class says nothing of the next ones: the share is left out.
    slope = heaps.slope()
    return InClass(
        gain=round(float(np.clip(slope, 0.01, 100.0)), _DIGITS),
        bias=round(float(np.clip(-slope * (heaps.high + heaps.low) / 2, -1000.0, 1000.0)), _DIGITS),
    )
