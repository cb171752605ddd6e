"""nn.MultiheadAttention split by heads: a rank has the rows of projections, and the columns behind, of its own heads.

Source: Shoeybi et al. 2019, Megatron-LM, §3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.distributed.autograd import reduce_from_ranks
from dlkit.distributed.group import Group
from dlkit.models.graph import Node
from dlkit.strategies.graph.exchanges import Gather, Layout, Sum, even_layout
from dlkit.strategies.graph.plan import Made, Walk

INPUTS = ("query", "key", "value")
ARGUMENTS = (*INPUTS, "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


def split_heads(walk: Walk, node: Node, module: nn.MultiheadAttention) -> bool:
    given = dict(zip(ARGUMENTS, node.args, strict=False)) | node.kwargs
    inputs = [given.get(name) for name in INPUTS]
    if module.num_heads < walk.world_size:
        return False
    if not all(isinstance(x, Node) and x.shape is not None and len(x.shape) == 3 for x in inputs):
        return False
    if any(type(given.get(name, False)) is not bool for name in ("need_weights", "is_causal")):
        return False
    heads = even_layout(1, module.num_heads, walk.world_size)
    units = heads.repeated(module.head_dim, 0)
    joined = JoinHeads(heads, given.get("need_weights", True), given.get("average_attn_weights", True))
    walk.step(
        node,
        walk.copied,
        along="units",
        parameters={f"{node.target}.{name}": part for name, part in _parameters(module, units).items()},
        call=lambda net, group: partial(own_heads, tuple(heads.parts[group.rank])),
        then=joined,
        finish=lambda net, group: _with_bias,
    )
    return True


def _parameters(module: nn.MultiheadAttention, units: Layout) -> dict[str, Layout]:
    """How each is cut; the projections of queries, keys and values may be one below another in one."""
    three = Layout(0, tuple(tuple(k * module.embed_dim + i for k in range(3) for i in part) for part in units.parts))
    cut = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), units)
    cut |= {"in_proj_weight": three, "in_proj_bias": three}
    cut |= dict.fromkeys(("bias_k", "bias_v"), Layout(2, units.parts))
    cut = {name: layout for name, layout in cut.items() if getattr(module, name) is not None}
    return cut | {"out_proj.weight": Layout(1, units.parts)}


def own_heads(
    own: tuple[int, ...],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What a rank's heads add to the output, without the bias, and their weights (batch, heads, targets, sources).

    All heads' dropout is drawn, by the same call as in the whole layer.
    """
    if module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = (_by_head(x, len(own)) for x in _projected(module, query, key, value))
    more = int(module.bias_k is not None) + module.add_zero_attn  # keys that no mask hides
    if module.add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    masks = [None if one is None else F.pad(_added(one, q), (0, more)) for one in (attn_mask, key_padding_mask)]
    mask = _mask(module.num_heads, own, *masks)
    p = module.dropout if module.training else 0.0
    if not need_weights and is_causal and key_padding_mask is None:
        mask = torch.full((q.shape[-2], k.shape[-2]), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    weights = q @ k.transpose(-2, -1) / sqrt(module.head_dim)
    weights = torch.softmax(weights if mask is None else weights + mask, -1)
    if p:
        weights = weights * _dropped(weights, own, module.num_heads, p, together=need_weights)
    y = (weights @ v).permute(2, 0, 1, 3).flatten(2)  # (targets, batch, units)
    y = F.linear(y, module.out_proj.weight)
    y = y.transpose(0, 1) if module.batch_first else y
    return y, weights if need_weights else None


def _projected(module: Any, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if module.bias_k is None:
        return projected
    more = (bias.expand(-1, query.shape[1], -1) for bias in (module.bias_k, module.bias_v))
    return [projected[0], *(torch.cat(pair) for pair in zip(projected[1:], more, strict=True))]


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(places, batch, units) as (batch, heads, places, units of a head)."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


def _mask(heads: int, own: tuple[int, ...], attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """What is added to the products of queries and keys; None for nothing."""
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.unflatten(0, (-1, heads))[:, own[0] : own[-1] + 1]
    if padding is None:
        return attn_mask
    return padding[:, None, None] if attn_mask is None else attn_mask + padding[:, None, None]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def _dropped(weights: Tensor, own: tuple[int, ...], heads: int, p: float, *, together: bool) -> Tensor:
    """What these heads' weights are multiplied by. together: whether torch draws for images and heads in one."""
    shape = [weights.shape[0], heads, *weights.shape[2:]]
    ones = weights.new_ones([shape[0] * heads, *shape[2:]] if together else shape)
    return F.dropout(ones, p).view(shape)[:, own[0] : own[-1] + 1]


def _with_bias(module: Any, joined: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    y, weights = joined
    return y if module.out_proj.bias is None else y + module.out_proj.bias, weights


@dataclass(frozen=True)
class JoinHeads:
    """The sum of what all ranks' heads give; their weights gathered, or their mean."""

    heads: Layout
    weights: bool
    average: bool
    name = "summed"

    def on(self, group: Group) -> Callable[[Any], Any]:
        gather = Gather(self.heads).on(group)

        def join(parts: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
            y, weights = parts
            y = reduce_from_ranks(y, group)
            if weights is not None:
                weights = (
                    reduce_from_ranks(weights.sum(1) / self.heads.whole, group) if self.average else gather(weights)
                )
            return y, weights

        return join

    def made(self, node: Node) -> list[Made]:
        """The exchanges of which it consists."""
        weights = [Made(node, Sum() if self.average else Gather(self.heads), 1)] if self.weights else []
        return [Made(node, Sum(), 0), *weights]

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        raise NotImplementedError("each of `made` has its own")
