"""Solving the head while everything below it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRENGTH = 0.01
"""Inverse of the penalty on the weights of standardised features, as in scikit-learn."""


@torch.no_grad()
def solve_head(head: nn.Linear, features: NDArray[np.float64], labels: NDArray[np.int_]) -> None:
    """Solve a linear layer by logistic regression.

    Args:
        head: is changed; a class without an image speaks for nothing afterwards. Left as it is with one class alone.
        features: (N, C) pooled.
        labels: (N,) classes.
    """
    if len(np.unique(labels)) < 2:
        return
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=1000)).fit(features, labels)
    scaler, regression = probe[0], probe[1]
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:
        # Of two classes scikit-learn gives the second one's advantage.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head.weight.zero_()
    head.bias.fill_(bias.min())
    head.weight[regression.classes_] = torch.from_numpy(weight).to(head.weight)
    head.bias[regression.classes_] = torch.from_numpy(bias).to(head.bias)
