"""What every check does with an answer: copies, errors, tries; and what counts as a tensor or a number."""

from functools import partial

import numpy as np
import pytest
import torch
from answers import points, verdict
from torch import nn

from dlkit.exercises import Answer, Hint, Points, exercise, students_code, task
from dlkit.exercises.answers import close, floats, number, numbers, shaped, tensor


@exercise("twice it is", deeper="Twice 1 is 2.")
def twice(answer):
    x = torch.arange(6.0)
    if not close(tensor(answer(x)), torch.arange(6.0) * 2):
        raise Hint("Not twice.")


# Stubs, and functions that return nothing


def stub(x):
    """Twice x."""
    ...


def passes(x):
    pass


def ellipsis(x):
    return ...


@pytest.mark.parametrize("answer", [None, ..., stub, passes, ellipsis, lambda x: ...])
def test_a_stub_is_not_answered(capsys, answer):
    assert verdict(capsys, twice, answer).startswith("○ Not answered yet")


def prints(x):
    print(end="")


def one_way(x):
    if x.sum() < 0:
        return 2 * x


def assigns(x):
    y = 2 * x  # noqa: F841


@pytest.mark.parametrize("answer", [prints, one_way, assigns])
def test_a_function_that_returns_nothing_is_told_so(capsys, answer):
    assert "returns nothing here" in verdict(capsys, twice, answer)


# What it is given


@pytest.mark.parametrize("answer", [3, "three", torch.ones(2), [1, 2]])
def test_what_is_no_function_where_one_is_wanted_is_told_so(capsys, answer):
    @exercise("a function")
    def check(answer: Answer):
        answer(1)

    @task
    def measured(answer: Answer):
        yield Points(answer(1), 1, "")

    assert "Hand in the function itself" in verdict(capsys, check, answer)
    assert "Hand in the function itself" in points(capsys, measured, answer)[1]


def adds_in_place(x):
    x += x
    return x


def sets_one(x):
    result = 2 * x
    x[0] = 7
    return result


@pytest.mark.parametrize("answer", [adds_in_place, sets_one, lambda x: x.mul_(2), lambda x: x.resize_(3)])
def test_a_changed_input_is_told_by_its_name(capsys, answer):
    assert "has changed `x`" in verdict(capsys, twice, answer)


def test_a_changed_input_of_a_function_without_names_is_told_by_its_position(capsys):
    assert "argument 1" in verdict(capsys, twice, lambda *x: x[0].mul_(2))


CONTAINERS = {
    "a list": ([1, 2], lambda x: x.append(3) or 1),
    "a list that is sorted": ([2, 1], lambda x: x.sort() or 1),
    "a list with a number set": ([2.0, 1.0], lambda x: x.__setitem__(0, 5.0) or 1),
    "a list of tensors": ([torch.ones(2)], lambda x: x[0].zero_().sum()),
    "a tuple of tensors": ((torch.ones(2),), lambda x: x[0].zero_().sum()),
    "a dict": ({"a": 1}, lambda x: x.update(b=2) or 1),
    "an array": (np.ones(2), lambda x: x.fill(0) or 1),
    "a net": (nn.Linear(2, 2), lambda x: nn.init.zeros_(x.weight).sum()),
    "a dtype": ({"a": torch.ones(2)}, lambda x: x.update(a=torch.ones(2).double()) or 1),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_a_container_holds_is_lent_as_copies(capsys, name):
    given, answer = CONTAINERS[name]
    before = str(given.state_dict() if isinstance(given, nn.Module) else given)

    @exercise("it is kept")
    def check(answer):
        answer(given)

    assert "has changed `x`" in verdict(capsys, check, answer)
    assert str(given.state_dict() if isinstance(given, nn.Module) else given) == before
    assert verdict(capsys, check, lambda x: 1).startswith("✓")


def test_an_argument_that_is_meant_to_change_is_the_callers_own(capsys):
    @exercise("it is set", changes=(0,))
    def check(answer):
        net = nn.Linear(2, 2)
        answer(net, torch.ones(2))
        if net.weight.grad is None:
            raise Hint("Set it.")

    def sets(net, x):
        net.weight.grad = torch.ones(2, 2)

    assert verdict(capsys, check, sets).startswith("✓")
    assert "Set it" in verdict(capsys, check, lambda net, x: print(end=""))
    assert "has changed `x`" in verdict(capsys, check, lambda net, x: x.zero_())
    assert verdict(capsys, check, lambda *_: None).startswith("○")


# Whose error it is


def test_an_error_of_the_students_code_is_told_as_that(capsys):
    assert "Your code raised ZeroDivisionError" in verdict(capsys, twice, lambda x: 1 / 0)
    assert "Your code raised TypeError" in verdict(capsys, twice, lambda: 1)
    assert "Your code raised TypeError" in verdict(capsys, twice, partial(torch.mul, 3, 4))


def test_an_error_of_the_check_is_told_as_the_kits(capsys):
    @exercise("nothing")
    def faulty(answer):
        answer(1)
        raise KeyError("own")

    assert not faulty(lambda x: x)
    assert "The check itself failed (KeyError: 'own'). That is a fault of the kit" in capsys.readouterr().out


def test_what_a_value_leads_to_can_be_told_as_the_students_error(capsys):
    @exercise("nothing")
    def check(answer):
        with students_code():
            answer["missing"]

    assert "Your code raised KeyError" in verdict(capsys, check, {})


def test_a_hint_from_what_the_student_calls_is_a_hint(capsys):
    def refuse(x):
        raise Hint("One image at a time.")

    @exercise("nothing")
    def check(answer):
        answer(refuse)

    assert "Not yet. One image at a time." in verdict(capsys, check, lambda f: f(1))


# Tries


def test_the_second_wrong_try_is_told_more_until_one_is_right(capsys):
    def said(answer):
        twice(answer)
        return capsys.readouterr().out

    twice.wrong_tries = 0
    assert said(lambda x: x) == "✗ Not yet. Not twice.\n"
    assert said(lambda x: 1 / 0).count("\n") == 1  # an error is no try
    assert said(lambda x: 3 * x) == "✗ Not yet. Not twice.\n  A step further: Twice 1 is 2.\n"
    assert said(lambda x: x + x).startswith("✓")
    assert said(lambda x: x) == "✗ Not yet. Not twice.\n"


# What counts as a tensor, and what as a number

SAME = {
    "a tensor": lambda x: 2 * x,
    "float64": lambda x: 2 * x.double(),
    "an array": lambda x: 2 * x.numpy(),
    "a list": lambda x: [2 * float(value) for value in x],
    "a list of tensors": lambda x: [2 * value for value in x],
    "a tuple of numpy's numbers": lambda x: tuple(2 * x.numpy()),
    "with a gradient": lambda x: 2 * x.requires_grad_(),
    "integers": lambda x: (2 * x).long(),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_tensor_in_another_form_is_right(capsys, name):
    assert verdict(capsys, twice, SAME[name]).startswith("✓")


NO_TENSORS = ["three", ["a"], {}, [[1.0], [1.0, 2.0]], np.array(["a"]), [None], 1.5, torch.tensor(1j), [1j], object]


@pytest.mark.parametrize("answer", NO_TENSORS, ids=str)
def test_what_is_no_tensor_gets_a_hint(capsys, answer):
    assert verdict(capsys, twice, lambda x: answer).startswith("✗ Not yet. ")


def test_a_result_that_cannot_go_on_is_told_its_dtype():
    for dtype in (torch.bool, torch.int64, torch.float16):
        with pytest.raises(Hint, match=str(dtype).removeprefix("torch.")):
            floats(torch.ones(2).to(dtype))
    assert floats([0.5, 1.0]).tolist() == [0.5, 1.0]
    assert shaped([[1, 2]], (1, 2), "a row").tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "answer", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor([[3.0]])], ids=repr
)
def test_the_same_number_in_another_form_is_right(answer):
    assert number(answer) == 3


@pytest.mark.parametrize("answer", [True, "3", [3], np.bool_(True), float("nan"), 3j, torch.ones(2)], ids=repr)
def test_what_is_no_number_gets_a_hint(answer):
    with pytest.raises(Hint, match="A number is wanted"):
        number(answer)


@pytest.mark.parametrize("answer", [[1, 2], (1.0, 2), np.array([1, 2]), torch.tensor([1, 2])], ids=repr)
def test_a_pair_may_be_of_any_kind(answer):
    assert numbers(answer, 2, "first and second") == [1, 2]


@pytest.mark.parametrize("answer", [1, [1], [1, 2, 3], "ab", [1, "b"], torch.tensor(1.0), {1, 2}, [1, None]], ids=repr)
def test_what_is_no_pair_gets_a_hint(answer):
    with pytest.raises(Hint):
        numbers(answer, 2, "first and second")


# Open tasks


@task
def saves_memory(answer):
    size = number(answer(8))
    if size < 0:
        raise Hint("Less than nothing.")
    yield Points(3 if size <= 4 else 0, 3, f"fits in 4 GB: it takes {size:g} GB")
    yield Points(max(0, 2 - size / 4), 2, "the less the better")


def test_a_task_gives_points_for_each_criterion(capsys):
    given, printed = points(capsys, saves_memory, lambda x: x / 2)
    assert given == 4
    assert printed == "● 4 of 5 points\n  ✓ 3 of 3: fits in 4 GB: it takes 4 GB\n  ◐ 1 of 2: the less the better\n"
    assert points(capsys, saves_memory, lambda x: 8)[1].splitlines()[1:] == [
        "  ✗ 0 of 3: fits in 4 GB: it takes 8 GB",
        "  ✗ 0 of 2: the less the better",
    ]


def test_a_task_that_cannot_be_measured_gives_none(capsys):
    assert points(capsys, saves_memory, lambda x: -1) == (0, "✗ No points yet. Less than nothing.\n")
    assert points(capsys, saves_memory, stub)[1].startswith("○ Not answered yet")
    assert "Your code raised ZeroDivisionError" in points(capsys, saves_memory, lambda x: 1 / 0)[1]
    assert "A number is wanted" in points(capsys, saves_memory, lambda x: "three")[1]
