import sys

import pytest
import torch

from priors import FunctionPrior, GPPrior, TaskShape, as_classification
from priors.catalogue import PRIORS
from priors.gallery import informative_pair, plot_gallery

pytest.importorskip("matplotlib")


def visible(figure):
    return [panel for panel in figure.axes if panel.get_visible()]


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_of_the_catalogue_has_a_picture(name, tmp_path):
    figure = plot_gallery(PRIORS[name].make(), PRIORS[name].shape(5, rows=30), generator=torch.Generator().manual_seed(0))
    assert len(visible(figure)) == 5
    figure.savefig(tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").stat().st_size > 5_000


def test_one_feature_gives_curves(generator):
    panel = visible(plot_gallery(GPPrior(), TaskShape(1, 30, 1, 10), generator=generator))[0]
    assert len(panel.lines) == 1
    assert [len(dots.get_offsets()) for dots in panel.collections] == [20, 10]
    steps = panel.lines[0].get_xdata()
    assert (steps[1:] >= steps[:-1]).all()


def test_classes_on_one_feature(generator):
    panel = visible(plot_gallery(as_classification(GPPrior()), TaskShape(1, 30, 1, 10), generator=generator))[0]
    assert len(panel.lines) == 0
    assert len(panel.get_yticks()) >= 2


def test_two_features_give_a_scatter(generator):
    panel = visible(plot_gallery(GPPrior(), TaskShape(1, 30, 2, 10), generator=generator))[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("feature 0", "feature 1")


def test_784_features_give_an_image(generator):
    panel = visible(plot_gallery(PRIORS["strokes"].make(), TaskShape(1, 12, 784, 8), generator=generator))[0]
    assert panel.images[0].get_array().shape[0] == 4 * 28


def test_informative_columns_are_found(generator):
    prior = FunctionPrior(lambda x, draw: x[:, :, 5] * x[:, :, 2] + 0.05 * draw.normal(*x.shape[:2]))
    assert informative_pair(prior.sample(TaskShape(1, 200, 20, 100), generator=generator)) == (2, 5)


def test_same_seed_same_picture(tmp_path):
    contents = []
    for name in ("a.png", "b.png"):
        figure = plot_gallery(GPPrior(), TaskShape(2, 20, 2, 10), generator=torch.Generator().manual_seed(3))
        figure.savefig(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_title_can_be_chosen_and_is_shortened(generator):
    assert plot_gallery(GPPrior(), generator=generator, title="curves").get_suptitle() == "curves"
    assert len(plot_gallery(PRIORS["rules"].make(), generator=generator).get_suptitle()) <= 110


def test_without_matplotlib_the_extra_is_named(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib; install it with: pip install pfnkit\[plot\]"):
        plot_gallery(GPPrior(), generator=generator)
