"""The descrambler by an optimiser, as it was first found: an oracle, and what it costs.

Cayley transform of an antisymmetric matrix, L-BFGS from the identity, both factors scaled to
spectral norm n (Amey, Keeley, Choudhury & Kuprov, PNAS 118, 2021).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


def transform(Q: Array) -> Array:
    """``(I + Q)⁻¹ (I - Q)``."""
    identity = np.eye(len(Q))
    return np.linalg.solve(identity + Q, identity - Q)


def cayley(entries: Array, n: int) -> Array:
    """The antisymmetric matrix of its lower triangle."""
    Q = np.zeros((n, n))
    Q[np.tril_indices(n, -1)] = entries
    return Q - Q.T


def cost_and_slope(entries: Array, A: Array, B: Array) -> tuple[float, Array]:
    """``tr(A P B Pᵀ)`` and its derivative by the lower triangle of Q."""
    n = len(A)
    Q = cayley(entries, n)
    P = transform(Q)
    APB = A @ P @ B
    G = -2 * np.linalg.solve((np.eye(n) + Q).T, APB @ (np.eye(n) + P).T)
    return float((APB * P).sum()), (G - G.T)[np.tril_indices(n, -1)]


def descrambler(A: Array, B: Array, start: Array | None = None) -> Array:
    """P by L-BFGS, from the identity or another rotation.

    Far from Q = 0 the transform is badly conditioned, and at an eigenvalue of -1 of P, Q is
    infinite: so it begins anew from where it is, every 200 iterations.
    """
    n = len(A)
    A, B = (n * M / np.linalg.norm(M, 2) for M in (A, B))
    P = np.eye(n) if start is None else start
    before = np.inf
    for _ in range(200):
        found = minimize(
            cost_and_slope,
            np.zeros(n * (n - 1) // 2),
            args=(A, P @ B @ P.T),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": 200, "ftol": 1e-15, "gtol": 1e-12},
        )
        P = transform(cayley(found.x, n)) @ P
        if found.fun > before * (1 - 1e-9):
            break
        before = found.fun
    return P
