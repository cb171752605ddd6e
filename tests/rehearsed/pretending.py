"""What the pretended device itself must catch, as a GPU does; and what it must let pass."""

import threading

import pretended
import pytest
import torch
from pretended import TwoDevices
from rehearsal import once


def there(*values):
    return torch.tensor(values, device=pretended.NAME)


def refused(kind, call):
    def case():
        with pytest.raises(kind):
            call()

    return once(case)


def in_a_thread(call):
    """Threads have modes of their own, and widgets train in one."""
    caught = []

    def run():
        with pytest.raises(TwoDevices):
            call()
        caught.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert caught


def waits(call, count):
    def case():
        pretended.waits.clear()
        call()
        assert len(pretended.waits) == count, pretended.waits

    return once(case)


@once
def backwards():
    w = there(1.0, 2.0).requires_grad_()
    (w * torch.tensor(3.0)).sum().backward()
    assert w.grad.tolist() == [3, 3]


here, mask = torch.ones(2), torch.tensor([True, False])
CASES = {
    "refused": {
        "a sum": refused(TwoDevices, lambda: there(1.0, 2.0) + here),
        "a sum into a number of the host": refused(TwoDevices, lambda: torch.zeros(()).add_(there(1.0).sum())),
        "a product": refused(TwoDevices, lambda: here[None] @ there(1.0, 2.0)[:, None]),
        "a concatenation": refused(TwoDevices, lambda: torch.cat([there(1.0), here])),
        "its indices of the host's tensor": refused(TwoDevices, lambda: here[there(1)]),
        "a mask of the host": refused(TwoDevices, lambda: there(1.0, 2.0).masked_fill(mask, 0.0)),
        "its generator on the host": refused(TwoDevices, lambda: torch.rand(2, generator=torch.Generator("gpu"))),
        "the host's generator": refused(TwoDevices, lambda: torch.rand(2, device="gpu", generator=torch.Generator())),
        "numpy": refused(RuntimeError, lambda: there(1.0).numpy()),
        "in a thread": once(lambda: in_a_thread(lambda: there(1.0, 2.0) + here)),
    },
    "waits": {
        "a value": waits(lambda: float(there(1.0).sum()), 2),  # and the value's way there
        "a mask's size": waits(lambda: there(1.0, 2.0)[there(1.0, 2.0) > 1], 3),
        "a copy to the host": waits(lambda: torch.ones(3, device="gpu").cpu(), 1),
        "nothing": waits(lambda: (torch.ones(3, device="gpu") * 2).sum() / torch.tensor(3.0), 0),
    },
    "backwards": backwards,
}
