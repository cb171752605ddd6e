"""Runs beside each other: every figure of a worked example, and a real run beside a split one."""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ranks import team

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.strategies import DataParallel
from dlkit.training import CD
from dlkit.training.comparison import compare
from dlkit.training.history import History
from dlkit.ui.draw.comparison import draw_comparison


def run(seconds, throughput, losses=(2.0, 1.0), strategy=None, bytes_sent=(), memory_bytes=(), **more):
    """What `compare` looks at; both rows of its history have ten steps and took as long."""
    rows = [
        {"step": 10 * place, "epoch": float(place), "loss": loss, "lr": 0.1, "images_per_second": throughput}
        for place, loss in enumerate(losses, 1)
    ]
    found = SimpleNamespace(seconds=seconds, throughput=throughput, step=20, history=History(rows), **more)
    if strategy is not None:
        found.strategy = strategy
        found.ranks = [
            SimpleNamespace(bytes_sent=sent, memory_bytes=held)
            for sent, held in zip(bytes_sent, memory_bytes, strict=True)
        ]
    return found


ALONE = run(8.0, 100.0)
TWO = run(5.0, 160.0, (2.0, 1.5), DataParallel(), bytes_sent=(1000, 3000), memory_bytes=(500, 700))
FOUR = run(2.5, 320.0, (2.0, 1.5), DataParallel(), bytes_sent=(1000,) * 4, memory_bytes=(500,) * 4)


def test_speed_up_efficiency_and_what_each_rank_sends_and_holds():
    alone, two, four = compare(ALONE, TWO, FOUR)
    assert (alone.world_size, alone.speed_up, alone.efficiency, alone.bytes_sent, alone.memory_bytes) == (
        1,
        1.0,
        1.0,
        0,
        None,
    )
    assert (two.world_size, two.speed_up, two.efficiency) == (2, 1.6, 0.8)
    assert (two.bytes_sent, two.memory_bytes) == (100, 700)  # 2,000 bytes a rank in 20 steps; the rank that holds most
    assert (four.speed_up, four.efficiency, four.loss) == (3.2, 0.8, 1.5)


def test_efficiency_is_for_a_rank_of_the_first_run():
    _, four = compare(TWO, FOUR)
    assert (four.speed_up, four.efficiency) == (2.0, 1.0)


def test_the_loss_is_over_the_seconds_of_training():
    assert compare(ALONE)[0].curve == [(4.0, 2.0), (8.0, 1.0)]
    slowing = run(6.0, 100.0)
    slowing.history.rows[1]["images_per_second"] = 50.0  # the second half took twice as long
    assert [at for at, _ in compare(slowing)[0].curve] == pytest.approx([2.0, 6.0])


def test_runs_have_their_strategies_names_with_what_is_unusual_in_them():
    ring = run(1.0, 50.0, strategy=DataParallel(reduce="ring"), bytes_sent=(0,), memory_bytes=(0,))
    assert [one.name for one in compare(ALONE, TWO, ring)] == ["alone", "DataParallel", "DataParallel(reduce='ring')"]
    assert [one.name for one in compare(ALONE, TWO, names=["a", "b"])] == ["a", "b"]


@dataclass(frozen=True)
class Listed:
    parts: list[int] = field(default_factory=list)


def test_names_know_of_defaults_that_are_made_and_of_strategies_that_are_no_dataclasses():
    usual, other = (run(1.0, 1.0, strategy=Listed(parts), bytes_sent=(0,), memory_bytes=(0,)) for parts in ([], [3]))
    plain = run(1.0, 1.0, strategy=object(), bytes_sent=(0,), memory_bytes=(0,))
    assert [one.name for one in compare(usual, other, plain)] == ["Listed", "Listed(parts=[3])", "object"]


def test_a_comparison_shows_as_a_table_in_text_and_in_html():
    lines = repr(compare(ALONE, TWO)).splitlines()
    heads = "run  ranks  seconds  images/s  speed-up  efficiency  sent a rank a step  memory a rank  loss"
    assert lines[0].split() == heads.split()
    assert lines[1].split() == ["alone", "1", "8", "100", "1.00", "100%", "0", "B", "1"]
    assert lines[2].split() == ["DataParallel", "2", "5", "160", "1.60", "80%", "100", "B", "700", "B", "1.5"]
    html = compare(ALONE, TWO, names=["alone", "<two>"])._repr_html_()
    assert "<td>&lt;two&gt;</td><td>2</td>" in html


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="no runs to compare"):
        compare()
    with pytest.raises(ValueError, match="1 names for 2 runs: give one a run"):
        compare(ALONE, TWO, names=["alone"])
    with pytest.raises(ValueError, match="DataParallel has not taken a step"):
        compare(ALONE, run(0.0, 0.0, (), DataParallel(), bytes_sent=(0,), memory_bytes=(0,)))


def test_a_run_and_its_split_twin():
    images = (torch.rand(50, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    experiment = Experiment(partial(RBM, 16, 8), data=images, learner=CD(), batch_size=20, row_every=2)

    def split(experiment):
        run = experiment.run(strategy=DataParallel(), steps=7, device="cpu", progress=False)
        return {name: getattr(run, name) for name in ("seconds", "throughput", "step", "history")} | {
            "sent": run.shard.recorder.bytes_sent
        }

    answers = team(2).call(split, experiment)
    twin = SimpleNamespace(
        **answers[0],
        strategy=DataParallel(),
        ranks=[SimpleNamespace(bytes_sent=each["sent"], memory_bytes=1) for each in answers],
    )
    alone = experiment.run(steps=7, device="cpu", progress=False)
    first, second = compare(alone, twin)
    assert second.speed_up == pytest.approx(answers[0]["throughput"] / alone.throughput)
    assert second.loss == pytest.approx(first.loss, rel=1e-4) == pytest.approx(alone.history["loss"][-1], rel=1e-4)
    assert first.curve[-1][0] == pytest.approx(alone.seconds)
    assert second.bytes_sent == answers[0]["sent"] / 7 > 0


def test_the_picture_says_in_words_what_it_shows():
    picture = draw_comparison(compare(ALONE, TWO, FOUR))
    assert "alone, 1 rank: speed-up 1.00, loss 1 after 8 seconds" in picture.alt
    assert "DataParallel, 4 ranks: speed-up 3.20, loss 1.5 after 2.5 seconds" in picture.alt
    assert picture.png.startswith(b"\x89PNG")


def test_one_run_and_runs_without_a_row_can_be_drawn():
    assert "1 runs" in draw_comparison(compare(ALONE)).alt
    assert "loss" not in draw_comparison(compare(run(1.0, 10.0, ()))).alt.split("seconds. ")[1]
