"""Vectors that no process has whole: servers hold parts of them, and a coordinator knows their names."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Command = Sequence[Any]  # an operation, names of vectors, a number
ASKS = ("dot", "largest", "length")  # operations that servers answer by a number


def put_together(command: Command, numbers: Sequence[float]) -> float:
    """The number that a command asks for, from those of the servers."""
    return max(numbers) if command[0] == "largest" else sum(numbers)


class VectorShard:
    """A server's parts of vectors, by name; it carries out commands. `contributions` come from workers, and are added
    to a vector when the coordinator says so.
    """

    def __init__(self, values: Tensor):
        self.vectors: dict[str, Tensor] = {"x": values.detach().clone()}
        self.contributions: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"VectorShard({len(self.vectors['x']):,} values of {len(self.vectors)} vectors)"

    def carry_out(self, commands: Sequence[Command]) -> list[float]:
        """The numbers that the commands ask for, in their order."""
        return [number for command in commands if (number := self._carry_out(*command)) is not None]

    def _carry_out(self, operation: str, name: str, *operands: Any) -> float | None:
        vectors = self.vectors
        if operation == "dot":
            return float(vectors[name].dot(vectors[operands[0]]))
        if operation == "largest":
            return float(vectors[name].abs().max())
        if operation == "length":
            return float(vectors[name].abs().sum())
        if operation == "scaled":  # name = number * a
            a, number = operands
            vectors[name] = vectors[a] * number
        elif operation == "sum":  # name = a + number * b
            a, b, number = operands
            vectors[name] = vectors[a].add(vectors[b], alpha=number)
        elif operation == "add":  # name += number * b
            b, number = operands
            vectors[name].add_(vectors[b], alpha=number)
        elif operation == "collect":  # name = the sum of contributions, in the order of their names; others are dropped
            vectors[name] = torch.zeros_like(vectors["x"])
            for key in operands[0]:
                vectors[name] += self.contributions[key]
            self.contributions.clear()
        elif operation == "free":
            del vectors[name]
        else:
            raise ValueError(f"there is no command {operation!r}.")
        return None


class Coordinator:
    """Gives commands to all servers, and puts their numbers together. Commands that ask for none wait for the next that
    does. `bill`: of what was sent: commands, by their operation, and messages.

    send: gives commands to all servers, and returns each one's numbers. dtype: of the vectors.
    """

    def __init__(self, send: Callable[[list[Command]], list[list[float]]], dtype: torch.dtype):
        self.send, self.dtype = send, dtype
        self.bill: Counter[str] = Counter()
        self._waiting: deque[Command] = deque()
        self._names = 0

    def __repr__(self) -> str:
        return f"Coordinator({self.bill['messages']:,} messages, {sum(self.bill.values()):,} commands)"

    def order(self, *command: Any) -> None:
        self._waiting.append(command)
        self.bill[command[0]] += 1

    def ask(self, *command: Any) -> Tensor:
        """A number: the sum of the servers', or the largest. As a tensor, which torch's line search wants."""
        self.order(*command)
        numbers = [answers[-1] for answers in self.flush()]
        return torch.tensor(put_together(command, numbers), dtype=self.dtype)

    def flush(self) -> list[list[float]]:
        """Send what waits, if anything does."""
        if not self._waiting:
            return []
        commands = list(self._waiting)
        self._waiting.clear()
        self.bill["messages"] += 1
        return self.send(commands)

    def new_name(self) -> str:
        self._names += 1
        return f"v{self._names}"


class Vector:
    """What a coordinator has of a vector: its name. It does what L-BFGS asks of a tensor, by commands."""

    def __init__(self, coordinator: Coordinator, name: str | None = None):
        self.coordinator = coordinator
        self.name = name or coordinator.new_name()

    def __repr__(self) -> str:
        return f"Vector({self.name})"

    def __del__(self):
        if self.name != "x":
            self.coordinator.order("free", self.name)

    def dot(self, other: "Vector") -> Tensor:
        return self.coordinator.ask("dot", self.name, other.name)

    def largest(self) -> Tensor:
        """Of the absolute values."""
        return self.coordinator.ask("largest", self.name)

    def length(self) -> Tensor:
        """The sum of the absolute values."""
        return self.coordinator.ask("length", self.name)

    def scaled(self, number: float) -> "Vector":
        made = Vector(self.coordinator)
        self.coordinator.order("scaled", made.name, self.name, float(number))
        return made

    def plus(self, other: "Vector", number: float = 1.0) -> "Vector":
        """self + number * other, which is new."""
        made = Vector(self.coordinator)
        self.coordinator.order("sum", made.name, self.name, other.name, float(number))
        return made

    def add_(self, other: "Vector", number: float) -> None:
        self.coordinator.order("add", self.name, other.name, float(number))

    # As torch's line search calls it.

    def clone(self, memory_format: Any = None) -> "Vector":
        """Itself: gradients are not changed once they are there."""
        return self

    def abs(self) -> "Absolute":
        return Absolute(self)


class Absolute:
    """The absolute values of a vector, of which only the largest is asked for."""

    def __init__(self, vector: Vector):
        self.vector = vector

    def __repr__(self) -> str:
        return f"Absolute({self.vector})"

    def max(self) -> Tensor:
        return self.vector.largest()
