"""What reaches a server: this run's messages, and nothing of strangers, impostors, or another net."""

import json
import secrets
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
import torch
import zmq
from asynchronous_runs import check_ledger

from dlkit.core.slices import Slice
from dlkit.strategies.asynchronous.client import Client, Contribution, Member
from dlkit.strategies.asynchronous.lines import Asking, Talk
from dlkit.strategies.asynchronous.messages import LONGEST_HEADER, Message, Refused, pack, unpack
from dlkit.strategies.asynchronous.record import Kind
from dlkit.strategies.asynchronous.rules import Plain
from dlkit.strategies.asynchronous.server import Plan, Server
from dlkit.strategies.asynchronous.serving import ServerSocket
from dlkit.strategies.asynchronous.wiring import wiring_here

KEY = b"k" * 32
FLOATS = {3: torch.float32}


def plan(values=10, **settings):
    given = {"rule": Plain, "lr": 0.1, "batches": 10_000, "batch_size": 1, "images": 100, "row_every": 100}
    return Plan(parts=(Slice(0, values, values),), **given | settings)


@contextmanager
def serving(wiring, server):
    ending = threading.Event()
    end = ServerSocket(wiring, 0, server)
    thread = threading.Thread(target=end.serve, args=(ending.is_set,))
    thread.start()
    try:
        yield end
    finally:
        ending.set()
        thread.join()
        end.close()


def test_a_message_is_what_it_was():
    sent = Message("push", {"sequence": 3, "computed_at": [[0, 5]]}, torch.tensor([1.0, -2.0, 3.5]))
    frames = pack(sent, KEY)
    assert len(frames) == 2
    found = unpack([bytearray(frame) for frame in frames], KEY, FLOATS)
    assert (found.kind, found.fields) == (sent.kind, sent.fields)
    assert torch.equal(found.values, sent.values)
    assert unpack(pack(Message("hello", {"request": 1}), KEY), KEY) == Message("hello", {"request": 1}, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_values_of_each_type_travel(dtype):
    values = torch.randn(7).to(dtype)
    found = unpack([bytearray(frame) for frame in pack(Message("push", {}, values), KEY)], KEY, {7: dtype})
    assert torch.equal(found.values, values)


def test_its_memory_is_not_copied():
    values = torch.zeros(3)
    frames = pack(Message("push", {}, values), KEY)
    values[1] = 7.0
    assert unpack([bytearray(frame) for frame in frames], KEY, FLOATS).values[1] == 7.0


def forged(change):
    frames = [bytearray(frame) for frame in pack(Message("push", {"sequence": 1}, torch.ones(3)), KEY)]
    return change(frames) or frames


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([], "not signed by this run's key"),
        ([b"nonsense"], "not signed by this run's key"),
        (pack(Message("push", {"sequence": 1}), b"another key"), "not signed by this run's key"),
        (forged(lambda frames: frames[0].__setitem__(40, 65)), "not signed by this run's key"),
        ([bytes(LONGEST_HEADER + 1)], "not signed by this run's key"),
        (forged(lambda frames: frames.pop() and None), "a push has 1 frames"),
        (forged(lambda frames: frames.append(bytearray(3))), "a push has 3 frames"),
        (forged(lambda frames: frames[1].extend(b"more")), "a push of 3 values of torch.float32 has 16 bytes"),
        (pack(Message("push", {}, torch.ones(4)), KEY), "4 values of float32, and 3 of torch.float32 can be"),
        (pack(Message("push", {}, torch.ones(3).long()), KEY), "3 values of int64, and 3 of torch.float32 can be"),
    ],
)
def test_frames_that_are_not_a_message_of_this_run_are_refused(frames, why):
    with pytest.raises(Refused, match=why):
        unpack(frames, KEY, FLOATS)


def test_a_header_cannot_name_anything_but_a_type():
    fields = {"kind": "push", "dtype": "load", "count": 3}
    import hashlib
    import hmac

    header = json.dumps(fields).encode()
    with pytest.raises(Refused, match="3 values of load"):
        unpack([hmac.digest(KEY, header, hashlib.sha256) + header, bytes(12)], KEY, FLOATS)


@pytest.mark.parametrize("encrypted", [False, True], ids=["on one machine", "between machines"])
def test_only_who_has_the_key_gets_an_answer(encrypted):
    wiring = replace(wiring_here(1), encrypted=encrypted)
    server = Server(plan(), 0, torch.zeros(10))
    with serving(wiring, server) as end:
        asking = Asking(wiring)
        answer = asking.ask(0, "fetch", 5.0)
        assert torch.equal(answer.values, torch.zeros(10))
        stranger = Asking(replace(wiring, key=secrets.token_bytes(32)))
        assert stranger.ask(0, "stop", 0.5, why="a stranger") is None
        assert server.stopped is None
        assert raw_reply(wiring.addresses[0]) == b""
        asking.ask(0, "stop", 5.0, why="one of us")
        assert server.stopped == "one of us"
        assert end.refused == 0  # a stranger's messages do not even come in
        asking.close()
        stranger.close()


def raw_reply(address):
    """What a server answers to a socket that speaks no zmq, after its greeting."""
    host, port = address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=1) as line:
        line.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(1 << 16))
        line.settimeout(0.5)
        try:
            got = b""
            while more := line.recv(1 << 16):
                got += more
        except OSError:
            pass
    return got[64:]


def test_one_who_only_knows_the_password_is_refused_and_counted():
    """Such as an impostor that has listened at the port of a server that was away."""
    wiring = wiring_here(1)
    server = Server(plan(), 0, torch.zeros(10))
    with serving(wiring, server) as end:
        context = zmq.Context()
        line = context.socket(zmq.DEALER)
        line.plain_username, line.plain_password = b"dlkit", wiring.password
        line.connect(wiring.addresses[0])
        line.send_multipart(pack(Message("stop", {"why": "an impostor"}), secrets.token_bytes(32)))
        line.send_multipart([b"", b"x" * 1000, b"y"])
        deadline = time.monotonic() + 5
        while end.refused < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (end.refused, server.stopped) == (2, None)
        context.destroy(linger=0)


def test_an_answer_of_an_impostor_is_not_taken():
    wiring = wiring_here(1)
    context = zmq.Context()
    impostor = context.socket(zmq.ROUTER)
    impostor.bind(wiring.addresses[0])
    asking = Asking(wiring)
    assert asking.ask(0, "fetch", 0.5) is None  # by the password alone it would not even connect
    asking.close()
    context.destroy(linger=0)


def test_a_message_that_is_too_large_ends_its_connection_and_no_memory_is_taken():
    wiring = wiring_here(1)
    server = Server(plan(), 0, torch.zeros(10))
    process = psutil.Process()
    with serving(wiring, server) as end:
        context = zmq.Context()
        line = context.socket(zmq.DEALER)
        line.plain_username, line.plain_password = b"dlkit", wiring.password
        line.connect(wiring.addresses[0])
        huge = bytes(200 << 20)
        before = process.memory_info().rss
        line.send_multipart([b"header", huge], copy=False)
        time.sleep(0.5)
        assert process.memory_info().rss - before < 100 << 20
        assert Asking(wiring).ask(0, "hello", 5.0) is not None
        assert end.refused == 0
        context.destroy(linger=0)


def test_a_push_of_another_net_is_told_to_who_sent_it():
    wiring = wiring_here(1)
    with serving(wiring, Server(plan(10), 0, torch.zeros(10))):
        client = Client(Member(0, 0, 1), (Slice(0, 12, 12),), torch.float32)
        talk = Talk(client, wiring)
        client._installed = ((0, 0),)
        with talk.changed:
            client.lines[0].life = 0
            client.push(Contribution(torch.zeros(12), 1, 1, {}))
            talk.wake()
            with pytest.raises(ValueError, match=r"12 values of float32, and 10 of torch.float32 can be"):
                talk.wait(lambda: False)
        talk.close()


def test_ten_thousand_pushes_take_no_memory_and_each_is_applied_once(tmp_path):
    """100 kB each, a gigabyte in all, to a server that is away for a while and comes back from its checkpoint."""
    size, pushes = 25_000, 10_000
    wiring = wiring_here(1)
    made = plan(size, batches=pushes, checkpoint_every=50)
    process = psutil.Process()
    client = Client(Member(0, 0, 1), (Slice(0, size, size),), torch.float32)
    gradient, rss = torch.ones(size), []

    def push_some(until):
        while client.sequence < until:
            with talk.changed:
                client.push(Contribution(gradient, client.sequence + 1, 1, {"loss": 0.0}))
                talk.wake()
                talk.wait(lambda: client.may_push)
            if client.sequence % 1000 == 0:
                rss.append(process.memory_info().rss)

    with serving(wiring, Server(made, 0, torch.zeros(size), tmp_path)):
        talk = Talk(client, wiring)
        with talk.changed:
            client.start_fetch()
            talk.wake()
            talk.wait(lambda: client.has_fetched)
            client.take(1)
        push_some(3_333)  # the last of which are in no checkpoint
    server = Server(made, 0, torch.zeros(size), tmp_path)
    with serving(wiring, server):
        push_some(pushes)
        with talk.changed:
            talk.wait(lambda: client.done)
    talk.close()
    assert server.life == 1
    assert [row.b for row in server.record.rows if row.kind == Kind.BEGIN] == [0, 3_300]
    assert server.shard.ledger == {0: pushes}
    torch.testing.assert_close(server.shard.values, torch.full((size,), -0.1 * pushes), rtol=1e-3, atol=0)
    check_ledger(server.record.rows)
    assert max(rss[2:]) - rss[1] < 30 << 20


def test_the_key_is_not_shown():
    wiring = wiring_here(2)
    assert wiring.key.hex() not in repr(wiring)
    assert repr(wiring.key) not in repr(wiring)
    assert "127.0.0.1" in repr(wiring)


def test_a_port_that_is_taken_is_told(monkeypatch):
    from dlkit.strategies.asynchronous import serving as sockets

    monkeypatch.setattr(sockets, "BIND_TIMEOUT", 0.2)
    wiring = wiring_here(1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(wiring.addresses[0].rsplit(":")[-1])))
        other.listen()
        with pytest.raises(OSError, match=r"a parameter server cannot listen at tcp://127.0.0.1:\d+"):
            ServerSocket(wiring, 0, Server(plan(), 0, torch.zeros(10)))
