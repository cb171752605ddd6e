"""What is trained: plain nn.Modules, with no training code."""

from dlkit.models.rbm import RBM, GaussianRBM

__all__ = ["RBM", "GaussianRBM"]
