"""What is trained: plain nn.Modules, with no training code."""

from dlkit.models.convnet import ConvNet, LeNet5
from dlkit.models.dbn import DBN
from dlkit.models.directed import DirectedLayer
from dlkit.models.locally_connected import LocallyConnected2d, LocalNet
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.models.top_rbms import CodeRBM, LabelledRBM

__all__ = [
    "DBN",
    "RBM",
    "CodeRBM",
    "ConvNet",
    "DirectedLayer",
    "GaussianRBM",
    "LabelledRBM",
    "LeNet5",
    "LocalNet",
    "LocallyConnected2d",
]
