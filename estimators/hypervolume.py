"""Pareto fronts of values to be minimised: which are on it, the volume that they dominate, and boxes that tile the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def pareto_front(
    values: ArrayLike,       # (n, k)
) -> FloatArray:             # (n_front, k), in lexicographic order
    """The distinct rows that no other row dominates: is no larger than in every objective and smaller in one.

    Examples
    --------
    >>> pareto_front([[2.0, 1.0], [1.0, 3.0], [2.0, 2.0], [2.0, 1.0]])
    array([[1., 3.],
           [2., 1.]])
    """
    rows = np.unique(_checked("values", values), axis=0)
    kept = np.empty_like(rows)
    n_kept = 0
    for row in rows:                                               # only rows that come earlier can dominate it
        if not (kept[:n_kept] <= row).all(axis=1).any():
            kept[n_kept] = row
            n_kept += 1
    return kept[:n_kept]


def is_pareto_optimal(
    values: ArrayLike,       # (n, k)
) -> NDArray[np.bool_]:      # (n,)
    """Which rows no other row dominates; equal ones share the answer."""
    array = _checked("values", values)
    front = {tuple(row) for row in pareto_front(array)}
    return np.fromiter((tuple(row) in front for row in array), dtype=bool, count=len(array))


def reference_point(
    values: ArrayLike,       # (n, k)
    margin: float = 0.1,
) -> FloatArray:             # (k,)
    """A point a little worse than the worst of the front in each objective: the front's maximum plus `margin` ranges.

    The usual rule for hypervolume: with a margin the ends of the front count too, but do not dominate the sum. The range
    is that of the front; where it is 0, that of all values; where this is 0 too, the value's magnitude, or 1.
    """
    array = _checked("values", values)
    if not len(array):
        raise ValueError("values has no rows; a reference point needs at least one observation.")
    front = pareto_front(array)
    nadir = front.max(axis=0)
    span = np.ptp(front, axis=0)
    for fallback in (np.ptp(array, axis=0), np.abs(nadir), np.ones_like(nadir)):
        span = np.where(span > 0, span, fallback)
    return nadir + margin * span


def hypervolume(
    front: ArrayLike,        # (n, k); dominated rows, and rows beyond the reference, add nothing
    reference: ArrayLike,    # (k,)
) -> float:
    """Volume of what some row dominates and what dominates the reference point, in the product of the objectives' units.

    By slices along the last objective, each the hypervolume of the rows below it in the others; all terms are positive.
    Meant for two or three objectives: the cost is n^(k - 1), up to logarithms.

    Examples
    --------
    >>> hypervolume([[1.0, 3.0], [2.0, 1.0]], reference=[4.0, 4.0])
    7.0
    """
    points, corner = _inside(front, reference)
    return _sliced_volume(points, corner)


def _sliced_volume(points: FloatArray, corner: FloatArray) -> float:
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=corner[-1])
    if len(corner) == 2:
        return float(thickness @ (corner[0] - np.minimum.accumulate(points[:, 0])))
    return sum(
        float(t) * _sliced_volume(points[: i + 1, :-1], corner[:-1]) for i, t in enumerate(thickness) if t > 0
    )


def non_dominated_boxes(
    front: ArrayLike,        # (n, k); dominated rows, and rows beyond the reference, change nothing
    reference: ArrayLike,    # (k,), k = 2 or 3
) -> tuple[FloatArray, FloatArray]:
    r"""Disjoint boxes that tile what dominates the reference and is not dominated by the front.

    Returns
    -------
    lower, upper : arrays of shape (n_boxes, k)
        Lower corners reach down to -inf. There are n + 1 boxes for two objectives, at most 2n + 1 for three.

    Notes
    -----
    In two objectives the region lies under a staircase, of which every step is one box. In three, a plane sweeps along the
    third objective; the staircase of the points that it has passed is its section of the region. A point that it meets
    lowers some steps: these are closed, each into a box from where it began, and two new ones begin, left and right of the
    point. So n points open at most 2n + 1 boxes, the number that [1]_ shows to suffice.

    References
    ----------
    .. [1] K. Yang, M. Emmerich, A. Deutz and T. Bäck, "Efficient computation of expected hypervolume improvement using box
       decomposition algorithms", Journal of Global Optimization 75, 2019.

    Examples
    --------
    >>> lower, upper = non_dominated_boxes([[1.0, 3.0], [2.0, 1.0]], reference=[4.0, 4.0])
    >>> lower.tolist()
    [[-inf, -inf], [1.0, -inf], [2.0, -inf]]
    >>> upper.tolist()
    [[1.0, 4.0], [2.0, 3.0], [4.0, 1.0]]
    """
    points, corner = _inside(front, reference)
    if len(corner) not in (2, 3):
        raise ValueError(f"boxes are for two or three objectives, got {len(corner)}.")
    points = pareto_front(points)
    if len(corner) == 2:
        edges = np.concatenate([[-np.inf], points[:, 0], corner[:1]])
        heights = np.concatenate([corner[1:], points[:, 1]])
        floor = np.full_like(heights, -np.inf)
        return np.stack([edges[:-1], floor], axis=1), np.stack([edges[1:], heights], axis=1)
    steps = [(-np.inf, corner[0], corner[1], -np.inf)]             # from x, to x, height y, since z; ordered in x
    boxes = []
    for x, y, z in points[np.argsort(points[:, 2], kind="stable")]:
        lowered = [step for step in steps if step[1] > x and step[2] > y]
        assert lowered                                             # else an earlier point would dominate this one
        boxes += [(left, -np.inf, since, right, height, z) for left, right, height, since in lowered if since < z]
        start, end = lowered[0], lowered[-1]
        fresh = [(start[0], x, start[2], z)] if start[0] < x else []
        fresh.append((x, end[1], y, z))
        first = steps.index(start)
        steps[first : first + len(lowered)] = fresh
    boxes += [(left, -np.inf, since, right, height, corner[2]) for left, right, height, since in steps]
    corners = np.array(boxes)
    return corners[:, :3], corners[:, 3:]


def _inside(front: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The rows that are better than the reference in every objective, and the reference."""
    corner = np.asarray(reference, dtype=np.float64)
    if corner.ndim != 1 or not len(corner) or not np.isfinite(corner).all():
        raise ValueError(f"reference={corner.tolist()} must be one finite value for each objective.")
    points = np.asarray(front, dtype=np.float64)
    points = _checked("front", points if points.size else points.reshape(0, len(corner)))
    if points.shape[1] != len(corner):
        raise ValueError(f"front has {points.shape[1]} objectives and reference {len(corner)}.")
    return points[(points < corner).all(axis=1)], corner


def _checked(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; pass one row per observation and one column per objective.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name} must be finite, got {array[row].tolist()} in row {row}; leave failed trials out.")
    return array
