"""A checkpoint of a split run that cannot be written: all ranks are told, and the next run is right at once."""

import resource

import pytest
from ranks import team
from splitting import difference, experiments, run

from dlkit.strategies import DataParallel, Pipeline, SpatialParallel, TensorParallel


def run_on_a_full_disk(*arguments, **settings):
    """As if the disk were full for whichever rank writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        return run(*arguments, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), SpatialParallel(), Pipeline(2)], ids=str)
def test_all_ranks_are_told_of_a_full_disk_and_go_on_from_the_checkpoint_before(strategy, tmp_path):
    experiment, ranks = experiments()["LeNet-5"], team(2)
    ranks.call(run, experiment, strategy, steps=2, checkpoint=tmp_path)
    with pytest.raises(
        OSError, match=r"\(File too large\): .*; the checkpoint of step 2 is still there, to go on from"
    ):
        ranks.call(run_on_a_full_disk, experiment, strategy, steps=4, checkpoint=tmp_path, resume=True)
    assert ranks.alive()  # they failed in step: none had to be started again
    alone = run(experiment, steps=4)
    for split in ranks.call(run, experiment, strategy, steps=4, checkpoint=tmp_path, resume=True):
        assert difference(alone.model, split.model) < 1e-5
