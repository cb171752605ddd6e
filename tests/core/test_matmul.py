"""Products by oneDNN against torch's own, in value, gradient and layout."""

import pytest
import torch
from torch.autograd import forward_ad

from dlkit.core import matmul as products
from dlkit.core.matmul import FastLinear, fast_linear, matmul

LARGE, SMALL = (100, 784, 500), (4, 16, 8)


def pair(m, k, n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(m, k, generator=generator).to(dtype), torch.rand(k, n, generator=generator).to(dtype)


@pytest.mark.parametrize("size", [LARGE, SMALL, (1, 784, 500), (784, 1, 500), (300, 784, 1)])
@pytest.mark.parametrize("transposed", ["neither", "x", "y", "both"])
def test_a_product_is_right_to_rounding_in_every_layout(size, transposed):
    x, y = pair(*size)
    if transposed in ("x", "both"):
        x = x.T.contiguous().T
    if transposed in ("y", "both"):
        y = y.T.contiguous().T
    exact = (x.double() @ y.double()).float()
    torch.testing.assert_close(matmul(x, y), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_keep_theirs(dtype):
    x, y = pair(*LARGE, dtype=dtype)
    assert torch.equal(matmul(x, y), x @ y)


@pytest.fixture
def one_dnn_calls(monkeypatch):
    """How often the fast product is taken."""
    if products._one_dnn is None:
        pytest.skip("this torch has no oneDNN")
    calls, real = [], products._one_dnn

    def counted(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(products, "_one_dnn", counted)
    return calls


def test_large_products_go_to_one_dnn_and_small_ones_do_not(one_dnn_calls):
    matmul(*pair(*SMALL))
    assert len(one_dnn_calls) == 0
    matmul(*pair(*LARGE))
    assert len(one_dnn_calls) == 1


@pytest.mark.filterwarnings("ignore:TF32")
def test_a_user_who_turns_one_dnn_off_gets_torchs_own_product(one_dnn_calls):
    x, y = pair(*LARGE)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(matmul(x, y), x @ y)
    assert len(one_dnn_calls) == 0


def test_autograd_follows_a_large_product():
    x, y = pair(*LARGE)
    y.requires_grad_()
    matmul(x, y).sum().backward()
    torch.testing.assert_close(y.grad, x.sum(0)[:, None].expand_as(y))


def test_autocast_still_decides_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul(*pair(*LARGE)).dtype == torch.bfloat16


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(784, 500), torch.nn.Sigmoid(), torch.nn.Linear(500, 300))


def test_fast_linear_layers_have_torchs_outputs_and_gradients(one_dnn_calls):
    plain, fast = net(), net()
    x, _ = pair(*LARGE)
    loss = plain(x).square().mean()
    loss.backward()
    with FastLinear():
        fast_loss = fast(x).square().mean()
    fast_loss.backward()
    assert len(one_dnn_calls) == 5  # two forward, three backward: nobody wants the gradient of the images
    torch.testing.assert_close(fast_loss, loss)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def slope_penalty_gradients(net, x):
    """The gradients of the squared norm of ∂output/∂x: second derivatives."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def test_fast_linear_layers_have_torchs_second_derivatives(one_dnn_calls):
    plain, fast = net(), net()
    x, _ = pair(*LARGE)
    expected = slope_penalty_gradients(plain, x)
    with FastLinear():
        found = slope_penalty_gradients(fast, x)
    assert one_dnn_calls  # the first pass is fast
    assert len(found) == len(expected) == 3  # the last bias moves no slope
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_fast_layers_derivatives_are_their_numerical_ones_twice():
    shapes = (3, 4), (2, 4), (2,)
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(1)).double() for shape in shapes]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(products._Linear.apply, inputs)
    assert torch.autograd.gradgradcheck(products._Linear.apply, inputs)


def tangent(function, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x))).tangent.sum()


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x).sum(),
        lambda f, x: torch.func.jvp(f, (x,), (x,))[1].sum(),
        lambda f, x: torch.func.vmap(f)(x[None]).sum(),
        tangent,
    ],
    ids=["grad", "jvp", "vmap", "forward_ad"],
)
def test_torchs_other_ways_to_differentiate_go_through_too(derivative, one_dnn_calls):
    (x, y), layer = pair(*LARGE), net()[0]
    for function in (layer, lambda x: matmul(x, y)):
        expected = derivative(layer if function is layer else lambda x: x @ y, x)
        with FastLinear():
            torch.testing.assert_close(derivative(function, x), expected)


def test_a_frozen_layer_gets_no_gradient():
    frozen, (x, _) = net(), pair(*LARGE)
    frozen[0].requires_grad_(False)
    with FastLinear():
        out = frozen(x).sum()
    out.backward()
    assert frozen[0].weight.grad is None
    assert frozen[2].weight.grad is not None


def test_layers_without_bias_small_ones_and_images_in_channels_stay_with_torch(one_dnn_calls):
    x, _ = pair(*LARGE)
    with FastLinear():
        torch.nn.Linear(784, 500, bias=False)(x)
        torch.nn.Linear(784, 4)(x[:2])
        assert torch.nn.Linear(784, 500)(x[:, None]).shape == (100, 1, 500)
    assert len(one_dnn_calls) == 0


def test_the_mode_is_entered_only_where_a_layer_is_large_enough():
    """It costs some microseconds for each call of torch's: nothing beside a large product, much beside small ones."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5), torch.nn.Sequential(torch.nn.Linear(128, 128)))
    assert isinstance(fast_linear(net, 128), FastLinear)
    assert not isinstance(fast_linear(net, 127), FastLinear)
    assert not isinstance(fast_linear(net[:1], 10**6), FastLinear)


def test_a_product_of_two_devices_is_left_to_torch_whose_message_names_both(one_dnn_calls):
    x, y = pair(*LARGE)
    matmul(x, y.to("meta"))
    matmul(x.to("meta"), y)
    assert len(one_dnn_calls) == 0


def test_a_net_elsewhere_than_on_a_cpu_computes_by_torch():
    net = torch.nn.Sequential(torch.nn.Linear(784, 500))
    assert isinstance(fast_linear(net, 100), FastLinear)
    assert not isinstance(fast_linear(net.to("meta"), 100), FastLinear)
