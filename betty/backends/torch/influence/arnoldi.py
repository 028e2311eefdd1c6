"""The leading eigenvectors of a curvature by products with it."""

from __future__ import annotations

import torch
from torch import Tensor

from betty.backends.torch.influence.curvature import Curvature


def leading_pairs(curvature: Curvature, iterations: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues of greatest magnitude ``[r]`` and their eigenvectors ``[r, size]``.

    Arnoldi's iteration from a random vector, every new one made orthogonal to all before it twice. The curvature is
    symmetric, so that what is projected on the Krylov space is too. Inexact: only directions that the iteration has met
    are seen, and the others count as having no curvature and no influence.

    Args:
        curvature: Products with it.
        iterations: Of Arnoldi; as many products.
        rank: Pairs to keep, of no more than there were iterations.
        seed: Of the first vector.

    Reference: Schioppa et al. (2022), arXiv:2112.03052, section 3.
    """
    generator = torch.Generator().manual_seed(seed)
    like = next(curvature.model.parameters())
    vector = torch.randn(curvature.size, generator=generator, dtype=torch.float64).to(like.device)
    basis, images = [vector / vector.norm()], []
    for _ in range(min(iterations, curvature.size)):
        image = curvature.product(basis[-1].to(like.dtype)).double()
        images.append(image)
        rest = image
        known = torch.stack(basis)
        for _ in range(2):
            rest = rest - known.T @ (known @ rest)
        if float(rest.norm()) <= 1e-10 * float(image.norm()) or len(basis) == curvature.size:
            break
        basis.append(rest / rest.norm())
    known = torch.stack(basis[: len(images)])
    small = known @ torch.stack(images).T
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    order = values.abs().argsort(descending=True)[:rank]
    return values[order].to(like.dtype), (vectors[:, order].T @ known).to(like.dtype)
