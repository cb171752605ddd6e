"""How it is trained, on one device."""

from dlkit.training.contrastive import CD, PCD
from dlkit.training.experiment import Experiment, Run
from dlkit.training.learner import Batch, Learner
from dlkit.training.schedules import linear, steps
from dlkit.training.stopping import EarlyStop

__all__ = ["CD", "PCD", "Batch", "EarlyStop", "Experiment", "Learner", "Run", "linear", "steps"]
