"""Replicas and servers in simulated time: against one process, torch's own Adagrad, the papers' algorithms by hand."""

from functools import partial

import pytest
import torch
from asynchronous_runs import IMAGES, LABELS, experiment, net, parameters
from torch import nn

from dlkit.models import RBM, Autoassociator, SparseCoding
from dlkit.strategies.asynchronous.downpour import BackupWorkers, Downpour, ElasticAveraging
from dlkit.strategies.asynchronous.parameter_shard import ParameterShard, Push
from dlkit.strategies.asynchronous.record import BYTES, Kind, Record, path_of
from dlkit.strategies.asynchronous.rules import Adagrad, ByStaleness, Plain
from dlkit.strategies.asynchronous.virtual import Simulation, durations, train_virtually
from dlkit.training import CD, PCD, CrossEntropy, DictionaryLearning, Reconstruction

PLAIN = Downpour(adagrad=False, overlap=False)


@pytest.mark.parametrize(
    "made",
    [
        experiment(),
        experiment(weight_decay=0.01),
        experiment(partial(RBM, 64, 9), CD()),
        experiment(partial(RBM, 64, 9), CD(centred=True)),
        experiment(partial(RBM, 64, 9), PCD()),
        experiment(partial(Autoassociator, 64, 9), Reconstruction()),
    ],
    ids=["net that draws", "weight decay", "CD", "centred CD", "PCD", "autoassociator"],
)
@pytest.mark.parametrize("servers", [1, 3])
def test_one_replica_learns_what_one_process_does(made, servers):
    alone = made.run(steps=30, progress=False)
    found = train_virtually(made, Downpour(adagrad=False, overlap=False, servers=servers), 1, batches=30)
    torch.testing.assert_close(parameters(found.model), parameters(alone.model), rtol=1e-12, atol=1e-14)
    assert found.history["loss"][0] == pytest.approx(alone.history["loss"][0], rel=1e-12)
    assert found.staleness == {0: 30}


def test_parts_of_a_sparse_code_keep_their_length():
    """Its learner itself makes them of length 1, of which servers know nothing."""
    made = experiment(partial(SparseCoding, 64, 12), DictionaryLearning())
    found = train_virtually(made, PLAIN, 3, batches=60)
    torch.testing.assert_close(found.model.D.norm(dim=1), torch.ones(12).double())
    alone = made.run(steps=60, progress=False)
    assert found.history["loss"][-1] == pytest.approx(alone.history["loss"][-1], rel=0.1)


def test_one_replica_with_adagrad_learns_what_torchs_does():
    alone = experiment(optimizer=torch.optim.Adagrad, momentum=None).run(steps=30, progress=False)
    found = train_virtually(experiment(), Downpour(overlap=False), 1, batches=30)
    torch.testing.assert_close(parameters(found.model), parameters(alone.model), rtol=1e-10, atol=1e-12)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def gradient_at(values, step, part, images=60):
    """By torch alone: of batch `step` of a part of the data that has so many images."""
    model = experiment(linear).initial_model()
    nn.utils.vector_to_parameters(values, model.parameters())
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    chosen = order[step * 10 :][:10] + images * part
    loss = nn.functional.cross_entropy(model(IMAGES[chosen].double()), LABELS[chosen])
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


def in_turn(replicas):
    """Each batch takes 1; replicas end theirs one after the other."""
    ended = dict.fromkeys(range(replicas), False)

    def duration(part):
        first, ended[part] = not ended[part], True
        return 1 + part / replicas if first else 1.0

    return duration


def start(made):
    return parameters(made.initial_model()).clone()


def test_two_replicas_in_turn_are_stale_by_one():
    """Each gradient is of the parameters before the other's last step."""
    made = experiment(linear)
    found = Simulation(made, PLAIN, 2, batches=5, duration=in_turn(2)).train()
    now = start(made)
    fetched = [now, now]
    for update in range(5):
        replica, step = update % 2, update // 2
        now = now - 0.1 * gradient_at(fetched[replica], step, replica)
        fetched[replica] = now
    torch.testing.assert_close(parameters(found.model), now, rtol=1e-12, atol=1e-14)
    assert found.staleness == {0: 1, 1: 4}
    assert found.record.pushes == [0, 1, 0, 1, 0]


def test_between_fetches_a_replica_takes_steps_of_its_own():
    """The supplement's algorithm, with a fetch after three batches and a push after two."""
    made = experiment(linear)
    found = Simulation(made, Downpour(adagrad=False, overlap=False, fetch=3, push=2), 1, batches=6).train()
    server = own = start(made)
    accrued = torch.zeros_like(server)
    for step in range(6):
        gradient = gradient_at(own, step, 0, images=120)
        own, accrued = own - 0.1 * gradient, accrued + gradient
        if step % 2 == 1:
            server, accrued = server - 0.1 * accrued, torch.zeros_like(server)
        if step % 3 == 2:
            own = server
    torch.testing.assert_close(parameters(found.model), server, rtol=1e-12, atol=1e-14)
    assert (found.step, found.updates) == (6, 3)


def test_under_adagrad_it_takes_none():
    made = experiment(linear)
    found = Simulation(made, Downpour(overlap=False, fetch=2, push=2), 1, batches=4).train()
    server, sums = start(made), torch.zeros(260).double()
    for step in (0, 2):
        pushed = gradient_at(server, step, 0, images=120) + gradient_at(server, step + 1, 0, images=120)
        sums = sums + pushed**2
        server = server - 0.1 * pushed / (sums.sqrt() + 1e-10)
    torch.testing.assert_close(parameters(found.model), server, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_elastic_averaging_is_the_papers(momentum):
    """Algorithm 1, two replicas in turn that exchange every two batches; with momentum as torch's SGD has it."""
    made = experiment(linear, momentum=momentum)
    strategy = ElasticAveraging(every=2, pull=0.2)
    found = Simulation(made, strategy, 2, batches=10, duration=in_turn(2)).train()
    centre = start(made)
    own, velocity, steps = [centre, centre], [0.0, 0.0], [0, 0]
    seen, moves = [None, None], [None, None]  # the centre as a replica has fetched it; what it will push

    def begin(replica):
        gradient = gradient_at(own[replica], steps[replica], replica)
        if seen[replica] is not None:
            moves[replica] = 0.2 * (own[replica] - seen[replica])
            own[replica] = own[replica] - moves[replica]
            seen[replica] = None
        velocity[replica] = momentum * velocity[replica] + gradient
        own[replica] = own[replica] - 0.1 * velocity[replica]
        steps[replica] += 1
        if steps[replica] % 2 == 0:
            seen[replica] = centre

    begin(0)
    begin(1)
    for event in range(10):  # the end of a batch, and the beginning of the next
        replica = event % 2
        if moves[replica] is not None:
            centre = centre + moves[replica]
            moves[replica] = None
        begin(replica)
    torch.testing.assert_close(parameters(found.model), centre, rtol=1e-12, atol=1e-14)
    assert (found.updates, found.step) == (4, 10)


def test_backup_workers_take_the_mean_of_the_first():
    made = experiment(linear)
    slow = {2: 1.4}
    found = Simulation(made, BackupWorkers(n=2, b=1), 3, batches=8, duration=lambda part: slow.get(part, 1.0)).train()
    now = start(made)
    for step in range(4):  # the third is late each time, and its gradients count for nothing
        now = now - 0.1 * (gradient_at(now, step, 0, 40) + gradient_at(now, step, 1, 40)) / 2
    torch.testing.assert_close(parameters(found.model), now, rtol=1e-12, atol=1e-14)
    assert (found.updates, found.staleness) == (4, {0: 8})
    assert found.dropped >= 2


def test_a_warm_start_is_one_replicas():
    found = train_virtually(experiment(), Downpour(warm_start=12), 4, batches=40)
    assert found.record.pushes[:12] == [0] * 12
    assert set(found.record.pushes[12:]) == {0, 1, 2, 3}


@pytest.mark.parametrize("staleness", [1, 4, 9])
def test_forced_staleness_is_what_was_asked_for(staleness):
    found = train_virtually(experiment(), Downpour(adagrad=False, overlap=False, staleness=staleness), 1, batches=60)
    assert max(found.staleness) == staleness
    assert found.staleness[staleness] == 60 - staleness


@pytest.mark.parametrize("replicas", [2, 5, 10])
def test_equal_replicas_are_as_stale_as_there_are_others(replicas):
    """A replica's gradient is overtaken by one of each of the others (Hermans 2017)."""
    found = train_virtually(experiment(), PLAIN, replicas, batches=600)
    assert found.mean_staleness == pytest.approx(replicas - 1, rel=0.05)


def test_a_slow_replica_is_waited_for_by_none():
    found = train_virtually(experiment(), PLAIN, 2, batches=210, slowed={1: 20.0})
    assert found.record.pushes.count(0) / found.record.pushes.count(1) == pytest.approx(20, rel=0.1)
    assert found.seconds == pytest.approx(200, rel=0.1)


STRATEGIES = [
    Downpour(),
    Downpour(rule=ByStaleness, servers=3),
    Downpour(adagrad=False, servers=2, fetch=3, push=2),
    Downpour(staleness=5, warm_start=5),
    ElasticAveraging(every=3),
    BackupWorkers(n=3, b=1),
    BackupWorkers(n=2, b=2, servers=2),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_replay_gives_the_same_bits(strategy):
    first = train_virtually(experiment(), strategy, 4, batches=60, latency=0.1)
    again = first.replay(progress=False)
    assert torch.equal(parameters(first.model), parameters(again.model))
    assert (first.staleness, first.dropped, first.updates) == (again.staleness, again.dropped, again.updates)
    other = train_virtually(experiment(), strategy, 4, batches=60, latency=0.1, slowed={1: 2.0})
    assert not torch.equal(parameters(first.model), parameters(other.model))


def test_a_replay_of_another_experiment_is_refused():
    first = train_virtually(experiment(), PLAIN, 2, batches=10)
    for other, message in (
        (experiment(linear), "another experiment .shapes"),
        (experiment(seed=3), "seed: 0 there, 3 here"),
        (experiment(batch_size=12), "batch_size: 10 there, 12 here"),
    ):
        with pytest.raises(ValueError, match=message):
            first.replay(other, progress=False)
    again = first.replay(experiment(), progress=False)  # the mend
    assert torch.equal(parameters(first.model), parameters(again.model))


@pytest.mark.parametrize("row", [1, 20, 39])
def test_a_record_without_a_row_or_with_another_is_refused(row, tmp_path):
    first = train_virtually(experiment(), PLAIN, 2, batches=20)
    first.record.save(tmp_path)
    assert Record.load(tmp_path, 1) == first.record
    path = path_of(tmp_path, 0)
    whole = path.read_bytes()
    assert len(whole) == first.record.nbytes
    changed = bytearray(whole)
    changed[row * BYTES + 9] ^= 1
    for damaged in (bytes(changed), whole[: row * BYTES] + whole[(row + 1) * BYTES :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"damaged at row {row}"):
            Record.load(tmp_path, 1)


def test_a_replay_that_is_not_the_run_is_said():
    first = train_virtually(experiment(), PLAIN, 2, batches=20)
    del first.record.servers[0][-2:]  # the last push
    with pytest.warns(UserWarning, match="the replay is not the run to the bit: they differ by"):
        first.replay(progress=False)


def test_callbacks_see_the_servers_values_at_each_row():
    seen = []

    def length(run):
        seen.append((run.step, parameters(run.model).norm().item()))
        return {"length": seen[-1][1]}

    found = train_virtually(experiment(row_every=20), PLAIN, 2, batches=60, callbacks=[length])
    assert [step for step, _ in seen] == [20, 40, 60]
    assert found.history["length"] == [length for _, length in seen]
    assert seen[-1][1] == pytest.approx(parameters(found.model).norm().item())
    assert len({length for _, length in seen}) == 3


def test_a_stale_gradient_takes_a_smaller_step():
    shard = ParameterShard(torch.zeros(2), ByStaleness())
    for sequence in (1, 2, 3):
        shard.push(Push(0, sequence, sequence - 1, torch.zeros(2)), 1.0)
    shard.push(Push(1, 1, 0, torch.tensor([4.0, -8.0])), 0.5)  # three have been applied since
    assert shard.values.tolist() == [-0.5, 1.0]


def test_a_gradient_is_applied_once():
    shard = ParameterShard(torch.zeros(3), Plain())
    push = Push(7, 1, 0, torch.ones(3))
    assert shard.push(push, 1.0)
    assert not shard.push(push, 1.0)
    assert shard.values.tolist() == [-1.0] * 3
    assert (shard.version, shard.ledger, shard.staleness) == (1, {7: 1}, {0: 1})


def test_a_shard_goes_on_from_what_it_kept():
    generator = torch.Generator().manual_seed(2)
    pushes = [
        Push(number % 3, number // 3 + 1, max(number - 2, 0), torch.randn(5, generator=generator))
        for number in range(12)
    ]
    whole, first, later = (ParameterShard(torch.ones(5), Adagrad()) for _ in range(3))
    for push in pushes:
        whole.push(push, 0.1)
    for push in pushes[:7]:
        first.push(push, 0.1)
    later.load(first.state())
    for push in pushes[5:]:  # two come again
        later.push(push, 0.1)
    assert torch.equal(whole.values, later.values)
    assert (whole.version, whole.ledger, whole.staleness) == (later.version, later.ledger, later.staleness)


@pytest.mark.parametrize(
    ("push", "message"),
    [
        (Push(1, 1, 0, torch.ones(4)), r"replica 1 sent \(4,\) numbers of torch.float32 to a shard of \(3,\)"),
        (Push(1, 1, 0, torch.ones(3).double()), "of torch.float64 to a shard"),
        (Push(1, 1, 5, torch.ones(3)), "version 5, and there are 0: it has fetched from another run"),
    ],
)
def test_a_push_that_does_not_fit_is_refused_and_changes_nothing(push, message):
    shard = ParameterShard(torch.zeros(3), Plain())
    with pytest.raises(ValueError, match=message):
        shard.push(push, 1.0)
    assert (shard.values.tolist(), shard.version, shard.ledger) == ([0.0] * 3, 0, {})


def with_running_averages():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


class StepsItself(CrossEntropy):
    """As an explorer's learner that takes the step too."""

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        return metrics


@pytest.mark.parametrize(
    ("settings", "strategy", "message"),
    [
        ({"momentum": 0.9}, PLAIN, "SGD keeps state from step to step"),
        ({"optimizer": torch.optim.Adam, "momentum": None}, PLAIN, "Adam keeps state"),
        ({"make": with_running_averages}, PLAIN, "changes 2.running_mean, which is no parameter.* use nn.GroupNorm"),
        ({"batch_size": 40}, PLAIN, "4 replicas have 30 images or so each, fewer than a batch of 40"),
        ({"learner": StepsItself()}, PLAIN, "StepsItself moves the parameters itself"),
        ({}, Downpour(staleness=30), "staleness=30 in a run of 30 batches"),
        ({}, Downpour(warm_start=31), "warm_start=31 in a run of 30 batches"),
        ({}, BackupWorkers(n=5, b=0), "5 gradients a step and 4 replicas"),
        ({"make": linear}, Downpour(servers=300), "260 parameters on"),
    ],
)
def test_what_cannot_be_trained_so_is_said(settings, strategy, message):
    with pytest.raises(ValueError, match=message):
        train_virtually(experiment(**settings), strategy, 4, batches=30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Downpour, fetch=0), "fetch=0: a whole number, at least 1"),
        (partial(Downpour, push=0), "push=0: a whole number, at least 1"),
        (partial(Downpour, servers=0), "servers=0"),
        (partial(Downpour, staleness=-1), "staleness=-1: a whole number, at least 0"),
        (partial(ElasticAveraging, pull=1.5), "pull=1.5"),
        (partial(BackupWorkers, n=0), "n=0, b=1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("strategy", "ranks", "message"),
    [
        (Downpour(servers=3), 2, r"Downpour\(servers=3\) on 2 engines: take fewer servers"),
        (Downpour(servers=2), 2, "2 servers of 2 engines leave 0 for replicas of 1: take fewer servers, share=True"),
        (Downpour(partitions=2), 4, "3 engines for replicas of 2 leave 1 with nothing to do: start 3 engines"),
        (Downpour(partitions=4), 4, "leave 3 for replicas of 4"),
        (BackupWorkers(n=2, b=1), 3, r"2 \+ 1 workers, and 2 replicas: start 4 engines"),
    ],
)
def test_ranks_that_do_not_fit_are_told(strategy, ranks, message):
    with pytest.raises(ValueError, match=message):
        strategy.roles(ranks)


def test_roles():
    roles = Downpour(servers=1, partitions=2).roles(5)
    assert (roles.servers, roles.replicas) == ((0,), ((1, 2), (3, 4)))
    roles = Downpour(servers=2, share=True).roles(2)
    assert (roles.servers, roles.replicas) == ((0, 1), ((0,), (1,)))


def test_durations_are_about_one():
    drawn = durations(1)
    times = [drawn(0) for _ in range(500)][1:]
    assert sum(times) / len(times) == pytest.approx(1, rel=0.02)


def test_one_that_comes_anew_is_in_the_record():
    simulation = Simulation(experiment(), PLAIN, 2, batches=40)
    simulation.at(5.0, lambda: simulation.join(1))
    found = simulation.train()
    assert {row.who for row in found.record.servers[0] if row.kind == Kind.JOIN} == {0, 1, 2}
    assert torch.equal(parameters(found.model), parameters(found.replay(progress=False).model))


def test_a_net_that_nobody_here_wrote_and_a_rule_too():
    class Sign(Plain):
        def step(self, values, gradient, lr, staleness):
            values.sub_(gradient.sign(), alpha=lr)

    found = train_virtually(experiment(net, lr=0.01), Downpour(rule=Sign), 3, batches=60)
    assert found.history["loss"][-1] < found.history["loss"][0]


class Drops(Simulation):
    """Loses one fetch of replica 0 on its way."""

    lost = 0

    def _send(self, own):
        for number, message in own.client.outgoing(self.now):
            if message.kind == "fetch" and own.replica.member.number == 0 and own.replica.steps == 5 and not self.lost:
                self.lost += 1
            else:
                self.at(self.now + self.latency, self._arrival(own, number, message))


def test_a_fetch_that_is_lost_is_asked_again_although_the_server_answers_pushes():
    simulation = Drops(experiment(), Downpour(), 2, batches=60, duration=lambda part: 0.1, latency=0.01)
    run = simulation.train()
    assert simulation.lost == 1
    assert max(run.staleness) < 8
    assert sum(row.kind == Kind.INSTALL and row.who == 0 for row in run.record.servers[0]) > 20


@pytest.mark.parametrize(("servers", "share"), [(1, 1.0), (2, 0.5)])
def test_a_busy_server_is_waited_for(servers, share):
    """Each of eight replicas asks for 0.3 + 0.3 a batch, which is more than a server has time for."""
    strategy = Downpour(servers=servers, overlap=False)
    run = train_virtually(experiment(), strategy, 8, batches=200, service=0.3)
    rate = run.step / run.seconds
    assert rate == pytest.approx(min(1 / (0.6 * share), 8 / 1.6), rel=0.1)


def test_a_server_that_is_never_waited_for_takes_its_time_all_the_same():
    alone = train_virtually(experiment(), Downpour(overlap=False), 1, batches=100, service=0.25)
    assert alone.seconds / alone.step == pytest.approx(1 + 2 * 0.25, rel=0.05)
