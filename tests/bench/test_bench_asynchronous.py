"""The bench of parameter servers, with few messages and batches: its rows, and that its references do what they say."""

from dataclasses import replace

import pytest

from dlkit.bench import asynchronous, asynchronous_messages


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(asynchronous, "ROUNDS", 1)
    monkeypatch.setattr(asynchronous_messages, "MESSAGES", 10)
    monkeypatch.setattr(asynchronous, "BATCHES", 8)
    monkeypatch.setattr(asynchronous, "WARM", 2)
    monkeypatch.setattr(asynchronous, "SLOWED", (2,))


def test_messages_are_beside_a_bare_socket_and_memory():
    rows = asynchronous_messages.messages(1_000, 1)
    assert [row.name for row in rows] == [
        "push and fetch of 4 kB each",
        "fetch of 4 kB",
        "fetch of 4 kB",
        "push of 4 kB",
        "push of 4 kB",
    ]
    assert all(row.value > 0 and row.ratio is not None and row.ratio > 0 for row in rows)
    assert rows[0].goal == "ratio at least 0.9"


def test_runs_are_beside_one_replica_and_synchronous_ranks(cluster):
    rows = asynchronous.runs(cluster)
    assert len(rows) == 2
    assert rows[0].goal == "ratio at least 1.7"
    assert rows[1].name == "Downpour, two replicas, one slowed 2 times"
    assert all(row.value > 0 for row in rows)


def test_searches_are_beside_one_with_both_workers_as_fast(cluster, monkeypatch):
    few = replace(asynchronous.SEARCHED, batch_size=64)
    monkeypatch.setattr(asynchronous, "SEARCHED", few)
    rows = asynchronous.searches(cluster)
    assert [row.name.split(", ")[1:] for row in rows] == [
        ["two workers", "one ten times as slow"],
        ["two workers", "one ten times as slow", "nothing given out twice"],
        ["two workers", "one ten times as slow", "the batch in two portions"],
    ]
    assert all(row.value > 0 and row.ratio is not None for row in rows)
