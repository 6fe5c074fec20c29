"""Pictures of predictive distributions; for classifiers scikit-learn's own displays do (`DecisionBoundaryDisplay`, …)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from estimators.regressor import PFNRegressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_bands(
    regressor: PFNRegressor, X: Any, along: int | str = 0, *, levels: tuple[float, ...] = (0.5, 0.9), ax: Axes | None = None
) -> Axes:
    """Median and central intervals of the predictive distribution along one column.

    Parameters
    ----------
    regressor : PFNRegressor
        Fitted, with one output.
    X : array-like or DataFrame of shape (n, n_features)
        Rows to predict, as a rule equal but for the column `along`; they are drawn in the order of that column.
    along : int or str, default=0
        Number or, in a frame, name of the column on the x-axis.
    levels : tuple of float, default=(0.5, 0.9)
        Probabilities of the intervals, in (0, 1).
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing: `pip install pfnkit[plot]`.
    ValueError
        If a level is no probability or the column does not exist.

    Examples
    --------
    >>> x = np.linspace(0, 1, 30)[:, None]
    >>> reg = PFNRegressor(n_estimators=1).fit(x, np.sin(6 * x[:, 0]))
    >>> ax = plot_bands(reg, np.linspace(-0.5, 1.5, 50)[:, None])
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install pfnkit[plot]") from error
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"levels={levels} holds {level}, which is no probability between 0 and 1.")
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    if along not in frame.columns and not (isinstance(along, int) and 0 <= along < frame.shape[1]):
        raise ValueError(f"along={along!r} is no column of X; it has {list(frame.columns)[:10]}.")
    position = frame[along].to_numpy() if along in frame.columns else frame.iloc[:, int(along)].to_numpy()
    order = np.argsort(position, kind="stable")
    distribution = regressor.predict_distribution(X)
    ax = Figure(figsize=(6, 4), layout="constrained").add_subplot() if ax is None else ax
    for level in sorted(levels, reverse=True):
        low, high = distribution.quantile([(1 - level) / 2, (1 + level) / 2])[order].T
        ax.fill_between(position[order], low, high, color="tab:blue", alpha=0.2, lw=0, label=f"{level:.0%} interval")
    ax.plot(position[order], distribution.median[order], color="tab:blue", label="median")
    ax.set_xlabel(str(along) if isinstance(along, str) else f"column {along}")
    ax.legend()
    return ax
