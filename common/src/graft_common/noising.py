"""What a denoiser learns from: a clean picture under noise, and what should be said of it."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


def noised(x0: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], abar: Float[Tensor, "..."]) -> Float[Tensor, "*s"]:
    """The state sqrt(abar) x_0 + sqrt(1 - abar) eps.

    Args:
        abar: signal power of each sample (cumulative product of 1 - beta), shaped to broadcast.
    """
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def target(
    x0: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], abar: Float[Tensor, "..."], prediction: str
) -> Float[Tensor, "*s"]:
    """The noise, or the velocity sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, appendix D).

    At the noisy end the velocity is the clean picture, whose error the noise's hides: where abar is 4e-5, an error of 0.02 in the
    noise is one of 3 in x_0. Small networks draw colours at random there unless they are taught the velocity.

    Raises:
        ValueError: another prediction.
    """
    if prediction == "epsilon":
        return eps
    if prediction == "v_prediction":
        return abar.sqrt() * eps - (1 - abar).sqrt() * x0
    raise ValueError(f"prediction {prediction!r}: must be epsilon or v_prediction")


def noise_of(
    said: Float[Tensor, "*s"], x: Float[Tensor, "*s"], abar: Float[Tensor, "..."], prediction: str
) -> Float[Tensor, "*s"]:
    """The noise in a state `x` by what a network said of it."""
    return said if prediction == "epsilon" else abar.sqrt() * said + (1 - abar).sqrt() * x
