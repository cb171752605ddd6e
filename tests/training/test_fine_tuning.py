"""Fine-tuning: what is trained when, and line searches against their definition."""

import copy

import pytest
import torch
from oracles import seeded

from dlkit.models import DBN
from dlkit.training import CrossEntropy, Experiment
from dlkit.training.fine_tuning import LineSearches, fine_tune

IMAGES = torch.rand(60, 6, generator=seeded())
LABELS = (IMAGES[:, :3].sum(1) > IMAGES[:, 3:].sum(1)).long()


def net():
    return DBN.of([6, 5, 4], std=0.5, generator=seeded()).classifier(2, generator=seeded())


def experiment(**changes):
    return Experiment(net, (IMAGES, LABELS), CrossEntropy(), **{"batch_size": 10, "epochs": 3, "lr": 0.5} | changes)


def test_the_top_layer_learns_alone_at_first():
    start = net()
    top, whole = fine_tune(start, experiment(), top_epochs=2, progress=False)
    assert top.step == 12
    assert whole.step == 18
    below = (
        [start[i].weight for i in (1, 3)],
        [top.model[i].weight for i in (1, 3)],
        [whole.model[i].weight for i in (1, 3)],
    )
    assert all(torch.equal(a, b) for a, b in zip(below[0], below[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(below[1], below[2], strict=True))
    assert not torch.equal(start[5].weight, top.model[5].weight)
    assert all(p.requires_grad for p in whole.model.parameters())


def test_the_net_that_is_given_stays_as_it_is():
    start, before = net(), copy.deepcopy(net()).state_dict()
    fine_tune(start, experiment(), progress=False)
    assert all(torch.equal(start.state_dict()[name], before[name]) for name in before)
    assert all(p.requires_grad for p in start.parameters())


def test_without_epochs_for_the_top_it_is_the_plain_experiment():
    (run,) = fine_tune(net(), experiment(), top_epochs=0, progress=False)
    plain = experiment().run(progress=False)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), plain.model.parameters(), strict=True))


def test_it_resumes_to_the_bit(tmp_path):
    whole = fine_tune(net(), experiment(), progress=False)[-1]
    stop = [lambda run: run.stop("enough") if run.step >= 6 and run.model[1].weight.requires_grad else None]
    cut = fine_tune(net(), experiment(), checkpoint=tmp_path, callbacks=stop, progress=False)
    assert cut[-1].step == 6
    again = fine_tune(net(), experiment(), checkpoint=tmp_path, resume=True, progress=False)[-1]
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def line_searched(**changes):
    settings = {"batch_size": 60, "epochs": 1, "lr": 1.0, "momentum": None, "optimizer": LineSearches}
    return experiment(**settings | changes)


def test_line_searches_are_those_of_torch_on_one_batch():
    run = line_searched().run(progress=False)
    ours, theirs = run.model, net()
    picked = run._order(0)
    optimizer = torch.optim.LBFGS(theirs.parameters(), lr=1.0, max_iter=3, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(IMAGES[picked]), LABELS[picked])
        loss.backward()
        return loss

    optimizer.step(closure)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_each_batch_starts_its_searches_anew(tmp_path):
    """Nothing of the last batch is kept, so that a checkpoint between two holds all there is."""
    whole = line_searched(batch_size=20, epochs=2).run(progress=False)
    line_searched(batch_size=20, epochs=2).run(steps=3, checkpoint=tmp_path, progress=False)
    again = line_searched(batch_size=20, epochs=2).run(checkpoint=tmp_path, resume=True, progress=False)
    assert again.step == 6
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_the_loss_reported_is_that_before_the_searches():
    run = line_searched().run(progress=False)
    expected = torch.nn.functional.cross_entropy(net()(IMAGES), LABELS).item()
    assert run.history["loss"][0] == pytest.approx(expected)


def test_a_search_never_ends_higher_than_it_began():
    run = line_searched(epochs=20).run(progress=False)
    assert all(later < earlier for earlier, later in zip(run.history["loss"], run.history["loss"][1:], strict=False))


def test_line_searches_take_no_weight_decay():
    with pytest.raises(ValueError, match="LineSearches takes no weight decay: leave it out"):
        line_searched(weight_decay=1e-4).run(progress=False)


def test_a_last_layer_with_nothing_to_train_is_not_trained_alone():
    bare = torch.nn.Sequential(*net(), torch.nn.LogSoftmax(1))
    with pytest.raises(ValueError, match="the last layer, LogSoftmax, has nothing to train alone: give top_epochs=0"):
        fine_tune(bare, experiment(), progress=False)
    assert len(fine_tune(bare, experiment(), top_epochs=0, progress=False)) == 1
