"""The checks behind the notebooks' exercises. A check passes, or it gives a hint; it never ends in an error message.

Each notebook has a module of its name, and each exercise a function that takes the student's answer:

    @exercise("the free energy sums the hidden units out")
    def free_energy(answer):
        if not close(...):
            raise Hint("...")
"""

from dlkit.exercises.checks import Hint, NotAnswered, exercise, given

__all__ = ["Hint", "NotAnswered", "exercise", "given"]
