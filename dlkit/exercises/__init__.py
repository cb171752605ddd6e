"""The checks behind the notebooks' exercises. A check passes, or it gives a hint; it never ends in an error message.

Each notebook has a module of its name, and each exercise a function that takes the student's answer:

    @exercise("the free energy sums the hidden units out", deeper="With one hidden unit, h = 0 and h = 1: two terms.")
    def free_energy(answer: Answer) -> None:
        if not close(tensor(answer(v, W, a, b)), right):
            raise Hint("...")
"""

from dlkit.exercises.checks import exercise
from dlkit.exercises.hints import Hint, NotAnswered, given
from dlkit.exercises.students_code import Answer, ReturnsNothing, students_code
from dlkit.exercises.tasks import Points, task

__all__ = ["Answer", "Hint", "NotAnswered", "Points", "ReturnsNothing", "exercise", "given", "students_code", "task"]
