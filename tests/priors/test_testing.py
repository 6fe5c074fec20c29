"""Priors that are broken in one way each, and the message that names it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from priors import GPPrior, TaskBatch, TaskShape, as_classification, with_missing
from priors.task import check_generator
from priors.testing import check_prior


@dataclass(frozen=True)
class Broken:
    """A sound prior whose batches go through `damage(batch, shape, generator)`."""

    damage: object
    classes: bool = False

    def sample(self, shape, *, generator):
        base = as_classification(GPPrior(), max_classes=4) if self.classes else GPPrior()
        return self.damage(base.sample(shape, generator=generator), shape, generator)


def untouched(batch, shape, generator):
    return batch


def in_place(name, index, value):
    """Overwrite cells of a part of the batch."""
    def damage(batch, shape, generator):
        part = getattr(batch, name).clone()
        part[index] = value
        return replace(batch, **{name: part})
    return damage


def seeds_itself(batch, shape, generator):
    return GPPrior().sample(shape, generator=torch.Generator().manual_seed(generator.initial_seed()))


def ignores_the_seed(batch, shape, generator):
    return GPPrior().sample(shape, generator=torch.Generator().manual_seed(0))


class Forgetful:
    """Changes with every call, whatever the seed."""

    calls = 0

    def sample(self, shape, *, generator):
        self.calls += 1
        return GPPrior().sample(shape, generator=check_generator(generator).manual_seed(self.calls))


def with_target_as_feature(batch, shape, generator):
    x = batch.x.clone()
    x[:, :, -1] = batch.y
    return batch.with_features(x)


def with_renamed_target_as_feature(batch, shape, generator):
    x = batch.x.clone()
    x[:, :, 0] = torch.tensor([3.0, -1.0, 7.5, 0.25])[batch.y]
    x[:, 0, 0] = torch.nan
    return batch.with_features(x)


def uses_numpy(batch, shape, generator):
    return replace(batch, y=batch.y + np.random.normal())


def uses_global_torch(batch, shape, generator):
    return replace(batch, y=batch.y + torch.randn(()))


def with_a_hole_in_the_classes(batch, shape, generator):
    return replace(batch, y=2 * batch.y)


def class_in_queries_only(batch, shape, generator):
    y = batch.y.clone()
    y[:, -1] = batch.n_classes
    return replace(batch, y=y, n_classes=batch.n_classes + 1)


ALL, FIRST_COLUMN = slice(None), (slice(None), slice(None), 0)
MASK = torch.ones(6, 7, dtype=torch.bool)
BROKEN = {
    "nothing": (untouched, False, None),
    "nothing-classes": (untouched, True, None),
    "x-infinite": (in_place("x", (0, 1, 0), torch.inf), False, "x holds infinite values"),
    "y-nan": (in_place("y", (0, 1), torch.nan), False, "y holds NaN or infinite values"),
    "constant": (in_place("x", FIRST_COLUMN, 5.0), False, r"x is constant in a column: \[task, column\] \[0, 0\]"),
    "x-double": (lambda b, s, g: b.with_features(b.x.double()), False, "x is torch.float64"),
    "y-double": (lambda b, s, g: replace(b, y=b.y.double()), False, "y is torch.float64"),
    "rows": (lambda b, s, g: replace(b, x=b.x[:, 1:], y=b.y[:, 1:]), False, r"x has shape \(6, 59, 7\), expected"),
    "columns": (lambda b, s, g: b.with_features(b.x[:, :, 1:]), False, r"x has shape \(6, 60, 6\), expected \(6, 60, 7\)"),
    "tasks": (lambda b, s, g: b.select(torch.arange(1)), False, r"x has shape \(1, 60, 7\), expected \(6, 60, 7\)"),
    "context": (lambda b, s, g: replace(b, n_context=7), False, "n_context is 7, expected 30"),
    "no-batch": (lambda b, s, g: (b.x, b.y), False, "returned tuple"),
    "y-3d": (lambda b, s, g: replace(b, y=b.y.unsqueeze(2)), False, r"raised ValueError: x must be \(batch, rows"),
    "self-seeded": (seeds_itself, False, "one generator gave the same batch four times"),
    "no-seed": (ignores_the_seed, False, "four seeds gave the same batch"),
    "numpy": (uses_numpy, False, "changed the global random state of numpy"),
    "torch": (uses_global_torch, False, "changed the global random state of torch"),
    "leak": (with_target_as_feature, False, "y is among the features in"),
    "renamed-leak": (with_renamed_target_as_feature, True, "y is among the features in"),
    "hole": (with_a_hole_in_the_classes, True, r"the classes of task 0 are \[0, 2.*\], not 0 … C-1"),
    "n-classes": (lambda b, s, g: replace(b, n_classes=b.n_classes + 1), True, r"n_classes of task 0 is \d, but \d classes"),
    "n-classes-shape": (lambda b, s, g: replace(b, n_classes=b.n_classes[:1]), True, r"n_classes is .* of shape \(1,\)"),
    "unseen": (class_in_queries_only, True, r"the classes \[\d\] of task 0 do not occur in its context"),
    "mask-shape": (lambda b, s, g: replace(b, feature_mask=MASK[:, :1]), False, r"feature_mask is .* of shape \(6, 1\)"),
    "mask-empty": (lambda b, s, g: replace(b, feature_mask=~MASK), False, "leaves a task without columns"),
    "device": (lambda b, s, g: b.with_features(b.x.to("meta")), False, "x is on meta, not on cpu"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_named(name):
    damage, classes, message = BROKEN[name]
    prior = Broken(damage, classes)
    shapes = [TaskShape(6, 60, 7, 30)]
    if message is None:
        assert check_prior(prior, shapes=shapes) is None
    else:
        with pytest.raises(AssertionError, match=message) as caught:
            check_prior(prior, shapes=shapes)
        if "among the features" not in message:
            assert "n_rows=60, n_features=7" in str(caught.value)      # where
        assert "remedy: " in str(caught.value)


def test_messages_name_shape_prior_and_remedy():
    with pytest.raises(AssertionError) as caught:
        check_prior(Broken(in_place("y", (0, 0), torch.inf)), seed=3)
    what, where, prior, remedy = str(caught.value).splitlines()
    assert what == "y holds NaN or infinite values"
    assert where == "  at: TaskShape(batch_size=6, n_rows=60, n_features=7, n_context=30), device cpu, seed 3"
    assert prior.startswith("  prior: Broken(")
    assert remedy.startswith("  remedy: every row needs a target")


def test_another_batch_from_the_same_seed():
    with pytest.raises(AssertionError, match="the same seed gave two different batches"):
        check_prior(Forgetful())


def test_an_object_without_sample():
    with pytest.raises(AssertionError, match="has no method sample"):
        check_prior(object())


def test_a_prior_that_ignores_its_generator():
    class Deaf:
        def sample(self, shape, *, generator):
            return GPPrior().sample(shape, generator=torch.Generator().manual_seed(0))

    with pytest.raises(AssertionError, match=r"sample\(generator=7\) raised nothing"):
        check_prior(Deaf())


def test_a_single_task_is_tried():
    def squeezes(batch, shape, generator):
        return replace(batch, x=batch.x.squeeze(0), y=batch.y.squeeze(0))

    with pytest.raises(AssertionError, match=r"raised ValueError: x must be .* \(60, 7\) and \(60,\)"):
        check_prior(Broken(squeezes), shapes=[TaskShape(6, 60, 7, 30)])


def test_columns_outside_the_mask_may_be_constant():
    def padded(batch, shape, generator):
        x, mask = batch.x.clone(), torch.ones_like(batch.x[:, 0], dtype=torch.bool)
        x[:, :, 0], mask[:, 0] = 0.0, False
        return replace(batch, x=x, feature_mask=mask)

    check_prior(Broken(padded), shapes=[TaskShape(6, 60, 7, 30)])


def test_constant_columns_can_be_accepted():
    check_prior(Broken(in_place("x", FIRST_COLUMN, 5.0)), constant_columns=True)


def test_gaps_are_no_leak_and_no_difference():
    check_prior(with_missing(GPPrior(), probability=1.0))


def test_a_restricted_prior_is_checked_on_shapes_of_its_own():
    class OneColumn:
        def sample(self, shape, *, generator):
            if shape.n_features != 1:
                raise ValueError(f"n_features={shape.n_features}; curves have one feature.")
            return GPPrior().sample(shape, generator=generator)

    with pytest.raises(AssertionError, match=r"raised ValueError: n_features=7; curves.*\n.*\n.*\n.*pass them as shapes="):
        check_prior(OneColumn())
    check_prior(OneColumn(), shapes=[TaskShape(4, 20, 1, 10), TaskShape(1, 2, 1, 1)])


def test_other_exceptions_keep_their_traceback_and_gain_the_shape():
    def crash(batch, shape, generator):
        return batch.y[:, 100]

    with pytest.raises(IndexError) as caught:
        check_prior(Broken(crash))
    assert "while check_prior drew TaskShape(batch_size=6" in caught.value.__notes__[0]


def test_no_shapes_is_an_error():
    with pytest.raises(ValueError, match="shapes is empty"):
        check_prior(GPPrior(), shapes=[])


def test_a_batch_is_built_from_what_users_have():
    """What the messages advise works: TaskBatch(x=x, y=y, n_context=shape.n_context)."""
    class Minimal:
        def sample(self, shape, *, generator):
            x = torch.rand(shape.batch_size, shape.n_rows, shape.n_features, generator=generator, device=generator.device)
            return TaskBatch(x=x, y=x.square().sum(2), n_context=shape.n_context)

    with pytest.raises(AssertionError, match=r"sample\(generator=7\) raised AttributeError, not TypeError"):
        check_prior(Minimal())
