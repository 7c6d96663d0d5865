"""Jacobians from a model's input to all its layers, on the side of the training."""

from svdhooks.jacobians.differentiator import Differentiator
from svdhooks.jacobians.options import JacobianOptions, LayerJacobian

__all__ = ["Differentiator", "JacobianOptions", "LayerJacobian"]
