"""Small nets, each about one rule of splitting by neurons, and what its ranks are to exchange."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Forward(nn.Module):
    """Its forward is a function of the net and its input; its layers have names."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: Any):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Case(NamedTuple):
    """`exchanges`: their names, in order, where two ranks split the net; None: whatever they are."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    exchanges: str | None = None


def conv(inputs: int, outputs: int, size: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **settings)


def residual(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    y = net.norm2(net.conv2(F.relu(net.norm1(net.conv1(x)))))
    return F.relu(x + y).mean((2, 3))


def residual_net(norm: Callable[[int], nn.Module], **settings: Any) -> nn.Module:
    layers = {"stem": conv(2, 8), "conv1": conv(8, 8), "conv2": conv(8, 8), "norm1": norm(8), "norm2": norm(8)}
    return Forward(residual, **layers)


def shortcut(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    y = net.conv2(F.relu(net.conv1(x)))
    y += net.down(x)
    return net.relu(y).flatten(1)


def squeeze_excite(net: Any, x: Tensor) -> Tensor:
    x = F.silu(net.expand(x))
    gate = torch.sigmoid(net.fc2(F.relu(net.fc1(F.adaptive_avg_pool2d(x, 1)))))
    x = gate * x
    return net.project(x).mean((2, 3))


def dense(net: Any, x: Tensor) -> Tensor:
    maps = [net.stem(x)]
    for layer, norm in ((net.a, net.norm_a), (net.b, net.norm_b)):
        maps.append(layer(F.relu(norm(torch.cat(maps, 1)))))
    return torch.cat(maps, 1).flatten(2).sum(2)


def own_attention(net: Any, x: Tensor) -> Tensor:
    def heads(layer: nn.Module) -> Tensor:
        return layer(x).view(x.shape[0], 5, 4, 3).transpose(1, 2)

    weights = (heads(net.q) @ heads(net.k).transpose(-2, -1) / 3**0.5).softmax(-1)
    return net.out((weights @ heads(net.v)).transpose(1, 2).reshape(x.shape[0], 5, 12))


def kernel_attention(net: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (4, 3)).transpose(1, 2) for layer in (net.q, net.k, net.v))
    return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def attention_layers() -> dict[str, nn.Module]:
    return {name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")}


def multihead(forward: Callable[[Any, Tensor], Any], **settings: Any) -> Callable[[], nn.Module]:
    settings = {"batch_first": True} | settings
    return lambda: Forward(
        forward,
        attention=nn.MultiheadAttention(12, 4, **settings),
        mask=torch.ones(5, 5).triu(1).bool(),
        added=torch.linspace(-1, 1, 25).view(5, 5),
        padding=torch.tensor([False, False, True, False, True]),
        scale=nn.Parameter(torch.linspace(0.5, 1.5, 12)),
    )


def masked(net: Any, x: Tensor) -> Tensor:
    padding = net.padding.expand(x.shape[0], 5)
    y, weights = net.attention(x, x, x, key_padding_mask=padding, attn_mask=net.mask)
    return y + weights.square().sum(-1)[..., None]


def masked_by_head(net: Any, x: Tensor) -> Tensor:
    mask = (net.added * torch.arange(1.0, 5)[:, None, None]).repeat(x.shape[0], 1, 1)
    y, weights = net.attention(x, x * net.scale, x, attn_mask=mask, average_attn_weights=False)
    return y.sum(-1) + weights.square().sum((1, 3))


def causal(net: Any, x: Tensor) -> Tensor:
    return net.attention(x, x, x, attn_mask=net.mask, is_causal=True, need_weights=False)[0]


def crossed(net: Any, x: Tensor) -> Tensor:
    return net.attention(x[:, :3], x * net.scale, x.flip(1), need_weights=False)[0]


def shuffled(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    x = x.view(x.shape[0], 2, 4, 6, 6).transpose(1, 2).reshape(x.shape[0], 8, 6, 6)
    one, other = net.b(x).chunk(2, 1)
    return torch.cat([one, other * 2], 1).amax((2, 3))


def views(net: Any, x: Tensor) -> Tensor:
    y = net.first(x.flatten(1)).view(-1, 4, 3)
    y = y.permute(2, 0, 1).movedim(0, 2).unsqueeze(1).squeeze(1).tanh()
    one, other = y.split([1, 2], 2)
    y = torch.cat([one.expand(-1, -1, 2), other, F.pad(other, (1, 0))], -1)
    top, _ = y.max(-1)
    return net.second(torch.stack([top, y[..., 0], y[:, :, -1], y.std(2)], 1).sum(1))


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = y.flip(1)  # y is gathered, then changed, and gathered again
    y += 1
    F.relu(y, inplace=True)
    z = z + y.flip(1) * net.b(y).sum((2, 3), keepdim=True)
    z.mul_(2).clamp_(-3, 3)
    return z.sum((2, 3))


def through_a_view(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    top = y[:, :, 0]
    top.mul_(3.0)
    return net.b(y).sum((2, 3))


def set_items(net: Any, x: Tensor) -> Tensor:
    y = net.a(x) * 1
    y[:, 0] = y[:, 1] * 2
    return net.b(y).sum((2, 3))


def frozen() -> nn.Module:
    net = residual_net(nn.BatchNorm2d)
    net.conv1.requires_grad_(False)
    net.norm2.requires_grad_(False)
    return net


def hooked() -> nn.Module:
    net = residual_net(nn.BatchNorm2d)
    net.norm1.register_forward_hook(lambda module, args, output: output * output.mean(1, keepdim=True))
    return net


def evaluating() -> nn.Module:
    net = residual_net(nn.BatchNorm2d)
    net.norm1.eval()
    return net


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    net[2].weight = net[0].weight
    return net


def read_elsewhere(net: Any, x: Tensor) -> Tensor:
    """A weight that is also read as a tensor."""
    return net.c(net.b(net.a(x).tanh())) + (net.a.weight**2).sum() + net.b.weight.norm()


CASES = {
    "residual, BatchNorm": Case(lambda: residual_net(nn.BatchNorm2d), (2, 6, 6), "copied summed copied gathered"),
    "residual, GroupNorm": Case(lambda: residual_net(lambda n: nn.GroupNorm(4, n)), (2, 6, 6)),
    "residual, groups of a map and more": Case(lambda: residual_net(lambda n: nn.GroupNorm(1, n)), (2, 6, 6)),
    "residual, InstanceNorm": Case(
        lambda: residual_net(lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True)), (2, 6, 6),
        "copied summed copied gathered",
    ),
    "frozen": Case(frozen, (2, 6, 6), "copied summed copied gathered"),
    "with a hook": Case(hooked, (2, 6, 6)),
    "a norm in evaluation mode": Case(evaluating, (2, 6, 6), "copied summed copied gathered"),
    "a shortcut with a convolution": Case(
        lambda: Forward(
            shortcut, stem=conv(2, 8), conv1=conv(8, 6), conv2=conv(6, 7), down=conv(8, 7, 1), relu=nn.ReLU(True)
        ),
        (2, 6, 6),
        "copied summed copied summed cut gathered",
    ),
    "squeeze and excite": Case(
        lambda: Forward(squeeze_excite, expand=conv(2, 8), fc1=conv(8, 3, 1), fc2=conv(3, 8, 1), project=conv(8, 4, 1)),
        (2, 6, 6),
        "copied summed copied summed",
    ),
    "branches concatenated": Case(
        lambda: Forward(
            dense, stem=conv(2, 5), a=conv(5, 4), b=conv(9, 4), norm_a=nn.BatchNorm2d(5), norm_b=nn.BatchNorm2d(9)
        ),
        (2, 6, 6),
    ),
    "NumPy's names of arguments": Case(
        lambda: Forward(
            lambda net, x: torch.cat([net.a(x), net.b(x)], axis=1).mean(axis=(2, 3)) * x.std(axis=1).sum(),
            a=conv(2, 4), b=conv(2, 4),
        ),
        (2, 6, 6),
    ),
    "depthwise and by groups": Case(
        lambda: nn.Sequential(
            *(conv(2, 8), nn.Hardswish(), conv(8, 8, groups=8), nn.ReLU6(), conv(8, 16, groups=4), conv(16, 4, 1)),
            *(conv(4, 4, groups=4), conv(4, 8, groups=2, bias=False), nn.Flatten(), nn.Linear(288, 3)),
        ),
        (2, 6, 6),
    ),
    "transposed": Case(
        lambda: Forward(
            lambda net, x: net.b(F.relu(net.a(x))) + F.interpolate(net.c(x), scale_factor=4)[:, :2],
            a=nn.ConvTranspose2d(2, 6, 2, 2), b=nn.ConvTranspose2d(6, 2, 2, 2), c=nn.ConvTranspose2d(2, 4, 1),
        ),
        (2, 4, 4),
    ),
    "one dimension and three": Case(
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.ReflectionPad1d(1)),
            *(nn.Unflatten(2, (1, 3, 3)), nn.Conv3d(6, 4, (1, 2, 2)), nn.InstanceNorm3d(4), nn.AdaptiveAvgPool3d(1)),
            *(nn.Flatten(), nn.Linear(4, 3)),
        ),
        (2, 16),
    ),
    "embeddings": Case(
        lambda: Forward(
            lambda net, x: net.out(net.words((x * 9).long()).mean(1) * net.scale),
            words=nn.Embedding(10, 8, padding_idx=0), out=nn.Linear(8, 3), scale=nn.Parameter(torch.rand(8)),
        ),
        (5,),
        "cut summed",
    ),
    "LayerNorm": Case(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 6)), (5, 6)
    ),
    "PReLU": Case(
        lambda: nn.Sequential(conv(2, 6), nn.PReLU(6), nn.PReLU(), nn.Flatten(), nn.Linear(96, 3)), (2, 4, 4)
    ),
    "attention of one's own": Case(lambda: Forward(own_attention, **attention_layers()), (5, 12)),
    "attention by torch's kernel": Case(lambda: Forward(kernel_attention, **attention_layers()), (5, 12)),
    "attention, weights": Case(multihead(masked), (5, 12), "copied summed summed"),
    "attention, weights of heads": Case(multihead(masked_by_head, bias=False), (5, 12)),
    "attention, causal": Case(multihead(causal), (5, 12), "copied summed"),
    "attention between": Case(multihead(crossed), (5, 12)),
    "attention, places first": Case(
        multihead(lambda net, x: net.attention(*[x.transpose(0, 1)] * 3)[0].sum(0), batch_first=False), (5, 12)
    ),
    "attention, other keys": Case(
        multihead(
            lambda net, x: net.attention(x, torch.cat([x, x], 2), x[..., :7], need_weights=False)[0], kdim=24, vdim=7
        ),
        (5, 12),
        "copied copied copied summed",
    ),
    "attention, biases of keys": Case(multihead(masked, add_bias_kv=True, add_zero_attn=True), (5, 12)),
    "shuffled maps": Case(lambda: Forward(shuffled, a=conv(2, 8), b=conv(8, 8)), (2, 6, 6)),
    "views of units": Case(lambda: Forward(views, first=nn.Linear(10, 12), second=nn.Linear(4, 3)), (2, 5)),
    "in place": Case(
        lambda: Forward(in_place, a=conv(2, 6), b=conv(6, 6)), (2, 4, 4), "copied gathered gathered summed"
    ),
    "in place through a view": Case(lambda: Forward(through_a_view, a=conv(2, 6), b=conv(6, 6)), (2, 4, 4)),
    "items set": Case(lambda: Forward(set_items, a=conv(2, 6), b=conv(6, 6)), (2, 4, 4)),
    "shared": Case(tied, (6,)),
    "a weight read as a tensor": Case(
        lambda: Forward(read_elsewhere, a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3)), (6,)
    ),
    "a layer called twice": Case(
        lambda: Forward(lambda net, x: net.out(net.a(net.a(x).tanh())), a=nn.Linear(6, 6), out=nn.Linear(6, 4)), (6,)
    ),
    "a norm without weights called twice": Case(
        lambda: Forward(
            lambda net, x: net.norm(net.b(F.relu(net.norm(net.a(x))))).sum(2),
            a=conv(2, 4), b=conv(4, 4), norm=nn.BatchNorm2d(4, affine=False),
        ),
        (2, 4, 4),
    ),
    "weights and functions": Case(
        lambda: Forward(
            lambda net, x: net.out(F.linear(net.a(x), net.w, net.b)) @ net.w[:3], a=nn.Linear(6, 8),
            w=nn.Parameter(torch.rand(8, 8)), b=nn.Parameter(torch.rand(8)), out=nn.Linear(8, 3),
        ),
        (6,),
    ),
    "broadcast": Case(
        lambda: Forward(
            lambda net, x: net.out(net.a(x) * net.each + net.one * net.b(x).mean(-1, keepdim=True) - net.c(x) / 3),
            a=nn.Linear(6, 8), b=nn.Linear(6, 8), c=nn.Linear(6, 1), each=nn.Parameter(torch.rand(8)),
            one=nn.Parameter(torch.rand(())), out=nn.Linear(8, 3),
        ),
        (6,),
    ),
    "used whole and split": Case(
        lambda: Forward(
            lambda net, x: net.out((h := net.a(x)) * 2) + h.softmax(-1)[:, :3] + h.sum(-1, keepdim=True),
            a=nn.Linear(6, 8), out=nn.Linear(8, 3),
        ),
        (6,),
        "copied summed gathered",
    ),
    "several outputs": Case(
        lambda: Forward(
            lambda net, x: {"y": (h := net.a(x)), "z": (net.b(h), h.tanh())}, a=nn.Linear(6, 8), b=nn.Linear(8, 5)
        ),
        (6,),
    ),
    "fewer maps than ranks": Case(
        lambda: nn.Sequential(conv(1, 2), nn.ReLU(), conv(2, 1), nn.Flatten(), nn.Linear(16, 9)), (1, 4, 4)
    ),
    "a recurrent layer between": Case(
        lambda: Forward(
            lambda net, x: net.out(net.rnn(net.a(x))[0][:, -1]), a=nn.Linear(6, 8), rnn=nn.GRU(8, 5, batch_first=True),
            out=nn.Linear(5, 3),
        ),
        (4, 6),
    ),
    "detached, and without gradients": Case(
        lambda: Forward(without_gradients, a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3)), (6,)
    ),
}  # fmt: skip


def without_gradients(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    with torch.no_grad():
        scale = net.b(h).abs().mean(1, keepdim=True)
    return net.c(h / (1 + scale)) + net.b(h).detach().sum(1, keepdim=True)
