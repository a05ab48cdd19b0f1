"""The import hook in the root pyproject is on: shapes in signatures are checked while tests run."""

import jaxtyping
import pytest
import torch


def test_shapes_are_checked_in_tests() -> None:
    from graft_common.attention import attend_columns

    q, k, v, columns = (
        torch.zeros(1, 2, 5, 4),
        torch.zeros(1, 2, 7, 4),
        torch.zeros(1, 2, 7, 3),
        torch.zeros(1, 1, 7, 2),
    )
    out, shares = attend_columns(q, k, v, columns)
    assert out.shape == (1, 2, 5, 3) and shares.shape == (1, 2, 5, 2)
    with pytest.raises(jaxtyping.TypeCheckError):
        attend_columns(q, k, v[:, :, :6], columns)
