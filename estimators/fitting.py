"""Fits that fail, or are interrupted, leave an estimator as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

Self = TypeVar("Self")
P = ParamSpec("P")
R = TypeVar("R")


def all_or_nothing(fit: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Decorate a method that sets attributes: if it raises, they are what they were.

    The method assigns new objects, and changes none that the estimator already has.
    """

    @wraps(fit)
    def method(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        before: dict[str, Any] = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return method
