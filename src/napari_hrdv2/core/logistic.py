"""Multinomial logistic regression that goes on from where the last fit ended.

It minimises the same function as scikit-learn's ``LogisticRegression`` on standardised features,
and starts from given weights: after one more stroke a few evaluations suffice. Every round of
L-BFGS (Nocedal and Wright, Numerical Optimization, 2nd ed., chapter 7) works in coordinates in
which the Hessian at the round's start, averaged over the classes, is the identity; half the
squared gradient is then an estimate of what the objective can still lose (the Newton decrement),
and that decides when to stop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.optimize import minimize

from .threads import single_thread

# The Hessian of so many rows, evenly taken, preconditions as well as that of all.
_HESSIAN_ROWS = 1536
# Steps after which the coordinates are chosen anew.
_ROUND = 15

Array = npt.NDArray[np.float64]
Start = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]


class Scaling(NamedTuple):
    """Mean and standard deviation of every feature, (C,); deviations of 0 count as 1.

    What hardly differs among the painted pixels may well elsewhere: on their own standard
    deviation alone it would then weigh more than all else. So the larger one counts, of the
    painted pixels' or of pixels anywhere.
    """

    mean: Array
    scale: Array

    @classmethod
    def of(
        cls, x: npt.NDArray[np.float32], anywhere: npt.NDArray[np.float32] | None = None
    ) -> Scaling:
        """Measure painted pixels (n, C), and by choice pixels anywhere (m, C)."""
        # As it is subtracted, so that nothing is left of it.
        mean = x.mean(0, dtype=np.float64).astype(np.float32).astype(np.float64)
        square = np.einsum("ij,ij->j", x, x, dtype=np.float64) / len(x)
        scale = np.sqrt(np.maximum(square - mean**2, 0))
        if anywhere is not None:
            scale = np.maximum(scale, anywhere.std(0, dtype=np.float64))
        # What rounding leaves of a constant feature is no deviation.
        constant = scale <= 1e-7 * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, scale))


def fit_logistic(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    *,
    C: float,  # noqa: N803, scikit-learn's name
    scaling: Scaling | None = None,
    start: Start | None = None,
    tol: float = 2e-5,
    max_iter: int = 1000,
) -> tuple[Array, Array]:
    """Weights and biases that minimise C times the weighted log loss plus the L2 penalty.

    The penalty is half the squared weights on standardised features; biases are free. Two
    classes have, as in scikit-learn, one penalised score, the difference of theirs.

    Parameters
    ----------
    x
        (n, C) features.
    y
        (n,) classes from 0 to K - 1, each at least once.
    weights
        (n,) weight of every row.
    C
        Inverse strength of the penalty.
    scaling
        What standardises the features; by default their own mean and deviation.
    start
        (K, C) weights and (K,) biases, on the features as they are, from which to start.
    tol
        Share of the objective that it may still lose, at most, when the fit ends.
    max_iter
        Steps at most.

    Returns
    -------
    ndarray, ndarray of float64
        (K, C) weights and (K,) biases on the features as they are.
    """
    with single_thread():
        return _fit(_Problem(x, y, weights, C, scaling or Scaling.of(x)), start, tol, max_iter)


def _fit(problem: _Problem, start: Start | None, tol: float, max_iter: int) -> tuple[Array, Array]:
    u, bias = problem.standardised(start)
    is_near, steps = start is not None, 0
    while True:
        factor = problem.hessian_factor(u, bias)
        limit = min(_ROUND, max_iter - steps)
        u, bias, taken, is_done = problem.descend(u, bias, factor, tol, limit)
        steps += taken
        # Far from where the Hessian was taken, it tells little of what can still be lost.
        if (is_done and (is_near or taken == 0)) or steps >= max_iter:
            return problem.folded(u, bias)
        is_near = False


class _Problem:
    """The function to minimise, of (K, C) weights on standardised features and (K,) biases."""

    def __init__(
        self,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.integer],
        weights: npt.NDArray[np.floating],
        C: float,  # noqa: N803
        scaling: Scaling,
    ) -> None:
        self.y = y
        self.weights = (C * weights).astype(np.float32)
        self.classes = int(y.max()) + 1
        # Half the difference of two scores squared twice is half of what one score pays.
        self.penalty = 2.0 if self.classes == 2 else 1.0
        self.scaling = scaling
        self.x = x - self.scaling.mean.astype(np.float32)
        self.x /= self.scaling.scale.astype(np.float32)

    def standardised(self, start: Start | None) -> tuple[Array, Array]:
        if start is None:
            return np.zeros((self.classes, self.x.shape[1])), np.zeros(self.classes)
        coef, bias = (np.asarray(part, np.float64) for part in start)
        # Scores that all classes share change nothing but the penalty.
        coef, bias = coef - coef.mean(0), bias - bias.mean()
        return coef * self.scaling.scale, bias + coef @ self.scaling.mean

    def folded(self, u: Array, bias: Array) -> tuple[Array, Array]:
        coef = u / self.scaling.scale
        return coef, bias - coef @ self.scaling.mean

    def _probabilities(
        self, u: Array, bias: Array, rows: slice = slice(None)
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(K, n) probabilities of the classes, and (n,) their negative logarithm at the truth."""
        by_row = self.x[rows] @ np.ascontiguousarray(u.T, np.float32)
        scores = np.ascontiguousarray(by_row.T) + bias.astype(np.float32)[:, None]
        scores -= scores.max(0)
        truth = np.take_along_axis(scores, self.y[rows][None], 0)[0]
        np.exp(scores, out=scores)
        total = scores.sum(0)
        scores /= total
        return scores, np.log(total) - truth

    def hessian_factor(self, u: Array, bias: Array) -> Array:
        """Lower Cholesky factor of the Hessian in one class's weights, averaged over them."""
        rows = slice(None, None, -(-len(self.x) // _HESSIAN_ROWS))
        p, _ = self._probabilities(u, bias, rows)
        x = self.x[rows]
        curvature = (p * (1 - p)).mean(0) * self.weights[rows]
        curvature *= self.weights.sum() / self.weights[rows].sum()
        gram = ((x.T * curvature) @ x).astype(np.float64)
        # Rounding must not leave it indefinite.
        gram[np.diag_indices_from(gram)] += self.penalty + 1e-6 * np.trace(gram)
        factor: Array = scipy.linalg.cholesky(gram, lower=True)
        return factor

    def descend(
        self, u: Array, bias: Array, factor: Array, tol: float, steps: int
    ) -> tuple[Array, Array, int, bool]:
        """Some steps of L-BFGS; new weights and biases, steps taken, and whether it is done."""
        shape = u.shape
        # Of the biases' curvature, an order of magnitude is enough.
        spread = np.sqrt(self.weights.sum(dtype=np.float64) / (4 * self.classes) + 1e-12)
        decrement = np.inf

        def back(flat: Array) -> tuple[Array, Array]:
            v = flat[: u.size].reshape(shape)
            inner = scipy.linalg.solve_triangular(
                factor, v.T, lower=True, trans="T", check_finite=False
            )
            return inner.T, flat[u.size :] / spread

        def value(flat: Array) -> tuple[float, Array]:
            nonlocal decrement
            w, b = back(flat)
            p, loss = self._probabilities(w, b)
            p[self.y, np.arange(len(self.y))] -= 1
            p *= self.weights
            by_bias = p.sum(1, dtype=np.float64)
            by_weight = (p @ self.x).astype(np.float64) + self.penalty * w
            inner = scipy.linalg.solve_triangular(
                factor, by_weight.T, lower=True, check_finite=False
            )
            gradient = np.concatenate([inner.T.ravel(), by_bias / spread])
            objective = float(self.weights @ loss) + self.penalty / 2 * float((w * w).sum())
            decrement = float(gradient @ gradient) / 2 / objective
            return objective, gradient

        def stop_early(_: Array) -> None:
            if decrement <= tol:
                raise StopIteration

        flat = np.concatenate([(u @ factor).ravel(), bias * spread])
        # A start that is good enough is left as it is.
        known = [value(flat)]
        if decrement <= tol:
            return u, bias, 0, True
        found: Any = minimize(  # type: ignore[call-overload]
            lambda at: known.pop() if known else value(at),
            flat,
            jac=True,
            method="L-BFGS-B",
            callback=stop_early,
            options={"maxiter": steps, "ftol": 0, "gtol": 0},
        )
        # A line search that finds nothing better is as far as single precision goes.
        return *back(found.x), int(found.nit), decrement <= tol or found.nit == 0
