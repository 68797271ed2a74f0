"""One comparison with the reference, and the ways to compare."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)

# Where the reference is this small, a relative error says nothing and the absolute one is taken.
_TINY = 1e-12


@dataclass
class Check:
    """How far one quantity of one case is from the reference.

    Attributes:
        file, case, quantity: what was compared.
        max_abs, max_rel: largest errors; relative to what ``measure`` says.
        tolerance: what the error may be at most; 0 for exact equality.
        measure: "absolute", "relative" or "exact": which error the tolerance is for.
        note: why, where the comparison could not be made.
    """

    file: str
    case: str
    quantity: str
    max_abs: float
    max_rel: float
    tolerance: float
    measure: str
    note: str = ""

    @property
    def passed(self) -> bool:
        error = self.max_rel if self.measure == "relative" else self.max_abs
        return not self.note and error <= self.tolerance  # NaN fails


class Case:
    """Makes the checks of one case.

    Args:
        file: name of the reference file.
        name: name of the case.
    """

    def __init__(self, file: str, name: str):
        self.file, self.name = file, name

    def failed(self, quantity: str, why: str) -> Check:
        """A check that could not be made, which counts as one that does not hold."""
        nan = float("nan")
        return Check(self.file, self.name, quantity, nan, nan, 0.0, "exact", why)

    def exact(self, quantity: str, got: Any, want: Any) -> Check:
        """Equal in shape and every value."""
        return self._compare(quantity, got, want, 0.0, "exact")

    def absolute(self, quantity: str, got: Any, want: Any, tolerance: float) -> Check:
        """Every value within ``tolerance``."""
        return self._compare(quantity, got, want, tolerance, "absolute")

    def relative(
        self, quantity: str, got: Any, want: Any, tolerance: float, scale: Any | None = None
    ) -> Check:
        """Every value within ``tolerance`` times ``scale``; default: times the value itself.

        Args:
            scale: a number, or an array that broadcasts to the values. Where it is 0 the absolute
                error counts.
        """
        return self._compare(quantity, got, want, tolerance, "relative", scale)

    def largest(self, quantity: str, got: Any, want: Any, tolerance: float) -> Check:
        """Every value within ``tolerance`` times the reference's largest magnitude."""
        want = to_array(want)
        scale = np.abs(want).max() if want.size else 0.0
        return self._compare(quantity, got, want, tolerance, "relative", scale)

    def _compare(
        self,
        quantity: str,
        got: Any,
        want: Any,
        tolerance: float,
        measure: str,
        scale: Any | None = None,
    ) -> Check:
        got, want = to_array(got), to_array(want)
        if got.shape != want.shape:
            return self.failed(quantity, f"shape {got.shape}, reference {want.shape}")
        if want.dtype.kind in "US":
            error = (got != want).astype(float)
        else:
            got, want = got.astype(np.float64), want.astype(np.float64)
            error = np.where(got == want, 0.0, np.abs(got - want))
        scale = np.abs(want) if scale is None else np.abs(to_array(scale).astype(np.float64))
        scale = np.where(scale < _TINY, 1.0, scale)
        # np.max keeps NaN, which no tolerance admits.
        largest, relative = (float(e.max()) if e.size else 0.0 for e in (error, error / scale))
        return Check(self.file, self.name, quantity, largest, relative, tolerance, measure)


def guarded(case: Case, checks: Iterator[Check]) -> Iterator[Check]:
    """Pass checks on; an error ends them and counts as a check that does not hold."""
    try:
        yield from checks
    except Exception as error:  # whatever it is, the other cases go on
        logger.exception("%s, case %s", case.file, case.name)
        yield case.failed("run", f"{type(error).__name__}: {error}")


def to_array(value: Any) -> np.ndarray:
    """Numbers, arrays or tensors as an array."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value)


def match_rows(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Order the rows of ``got`` like those of ``want``, each with its nearest left.

    Rows are sets where scores are too close to fix their order.

    Args:
        got, want: (R, D).

    Returns:
        the rows of ``got``, reordered; unchanged where the numbers of rows differ.
    """
    if got.shape != want.shape or not len(want):
        return got
    free = np.ones(len(got), dtype=bool)
    order: list[int] = []
    for row in want:
        distance = np.abs(got - row).max(axis=1)
        distance[~free] = np.inf
        order.append(int(distance.argmin()))
        free[order[-1]] = False
    return got[order]


def stats(value: Any) -> np.ndarray:
    """Sum, sum of magnitudes, mean, standard deviation, least and largest value, in float64."""
    value = to_array(value).astype(np.float64)
    return np.array(
        [value.sum(), np.abs(value).sum(), value.mean(), value.std(), value.min(), value.max()]
    )


def check_stats(case: Case, name: str, got: Any, want: Any, tolerance: float) -> Iterator[Check]:
    """Compare :func:`stats`: the sums relative to the sum of magnitudes, the rest absolutely."""
    got, want = np.asarray(got), np.asarray(want)
    yield case.relative(f"{name} sums", got[:2], want[:2], 5e-5, scale=want[1])
    yield case.absolute(f"{name} mean, std, min, max", got[2:], want[2:], tolerance)
