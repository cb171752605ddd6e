"""Which nodes of a graph change the value of another one, and what else that changes, through views."""

from dlkit.models.graph import NetGraph, Node


def changed_input(graph: NetGraph, node: Node) -> Node | None:
    """The node whose value it changes, as `x += y`, `x.relu_()`, nn.ReLU(inplace=True) and `out=x` do; None if none."""
    if isinstance(out := node.kwargs.get("out"), Node):
        return out
    module = graph.module_of(node)
    inplace = node.kwargs.get("inplace") is True or bool(getattr(module, "inplace", False))
    if not (inplace or is_in_place(node)) or not node.args or not isinstance(node.args[0], Node):
        return None
    return node.args[0]


def is_in_place(node: Node) -> bool:
    """Does its name say that it changes its first input?"""
    name = node.called
    if node.op == "method":
        return name.endswith("_") and not name.startswith("_")
    operators = ("iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imatmul", "setitem")
    return node.op == "function" and (name in operators or (name.endswith("_") and not name.endswith("__")))


def changed_through_views(graph: NetGraph) -> set[Node]:
    """What shares memory with what is changed in place, where both are used after that: only whole it stays right."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    found: set[Node] = set()
    for node in graph.nodes:
        if (first := changed_input(graph, node)) is not None:
            sharing = [other for other in graph.nodes if other.storage & first.storage]
            others = [other for other in sharing if other is not first and place[other] < place[node]]
            if any(place[user] > place[node] for other in others for user in graph.users[other]):
                found.update(sharing)
    return found
