"""How it is trained, on one device."""

from dlkit.data.batch import Batch
from dlkit.training.backprop import CrossEntropy, Reconstruction
from dlkit.training.contrastive import CD, PCD
from dlkit.training.distortions import Affine, InputDropout
from dlkit.training.experiment import Experiment
from dlkit.training.learner import Learner
from dlkit.training.pretraining import pretrain
from dlkit.training.run import Run
from dlkit.training.schedules import linear_schedule, piecewise_constant
from dlkit.training.stopping import EarlyStop
from dlkit.training.updown import UpDown

__all__ = [
    "CD",
    "PCD",
    "Affine",
    "Batch",
    "CrossEntropy",
    "EarlyStop",
    "Experiment",
    "InputDropout",
    "Learner",
    "Reconstruction",
    "Run",
    "UpDown",
    "linear_schedule",
    "piecewise_constant",
    "pretrain",
]
