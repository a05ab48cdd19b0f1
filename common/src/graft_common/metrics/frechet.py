"""Frechet distance between two sets of feature vectors, and the features it is taken on."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.metrics.judges import Judges, load_judges


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017, eq. 6), in float64:
    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)), with the unbiased covariances A and B.

    The trace of the root is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: no
    complex numbers appear, also when there are fewer vectors than dimensions. The estimate falls as n grows: compare
    only sets of equal size.

    Raises:
        ValueError: fewer than two vectors, or different dimensions.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"feature sets are {a.shape} and {b.shape}; each needs two vectors or more, of equal length")
    first, second = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    middle = root @ cov_b @ root
    cross = np.sqrt(np.linalg.eigvalsh((middle + middle.T) / 2).clip(min=0)).sum()
    gap = first.mean(axis=0) - second.mean(axis=0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


@torch.no_grad()
def features(
    images: Float[Tensor, "B 3 H W"], judges: Judges | None = None, batch: int = 64
) -> Float[np.ndarray, "B d"]:
    """The world classifier's feature vectors of pictures in [-1, 1], float64: phantom worlds only, not Inception's."""
    classifier = (judges or load_judges(device=str(images.device))).classifier
    dtype = next(classifier.parameters()).dtype
    parts = [classifier.embed(part.to(dtype)).double().cpu().numpy() for part in images.split(batch)]
    return np.concatenate(parts)
