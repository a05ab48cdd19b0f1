"""Tables of the noise schedule in float64, for T states kept of the N that training had (spec 2.2)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from graft_common.errors import InputError


@dataclass(frozen=True, eq=False)
class Tables:
    """Noise schedule over states 0..T; entry 0 is the clean state.

    Attributes:
        index: (T+1,) training index that the network is given at a state; -1 at state 0, where it never runs.
        abar: (T+1,) cumulative signal power, 1 at state 0.
        beta: (T+1,) 1 - abar_t / abar_{t-1}; 0 at state 0.
        posterior: (T+1,) beta_t (1 - abar_{t-1}) / (1 - abar_t), the variance of x_{t-1} given x_t and x_0.
    """

    index: Int64[np.ndarray, " T1"]
    abar: Float64[np.ndarray, " T1"]
    beta: Float64[np.ndarray, " T1"]
    posterior: Float64[np.ndarray, " T1"]

    @property
    def states(self) -> int:
        """T."""
        return len(self.abar) - 1


def kept(N: int, T: int, from_zero: bool = True) -> Int64[np.ndarray, " T"]:
    """Training indices of states 1..T, evenly over 0..N-1.

    Args:
        from_zero: state 1 is index 0 (DDPM, DDIM). Else it is near (N-1)/T, since diffusers' multistep solvers put index 0 on the
            grid of `timestep_spacing="linspace"` and then leave it out.

    Raises:
        InputError: more states than training had.
    """
    most = N if from_zero else N - 1
    if not 1 <= T <= most:
        raise InputError(f"--steps {T}: must be from 1 to {most}, as the models were trained with {N} steps")
    if from_zero:
        return np.linspace(0, N - 1, T).round().astype(np.int64) if T > 1 else np.array([N - 1])
    return np.linspace(0, N - 1, T + 1).round().astype(np.int64)[1:]


def respace(alphas_cumprod: Float64[np.ndarray, " N"], T: int, from_zero: bool = True) -> Tables:
    """Tables of T states kept of a training schedule; abar is unchanged where it is kept, beta is computed anew."""
    index = kept(len(alphas_cumprod), T, from_zero)
    abar = np.concatenate([[1.0], alphas_cumprod[index]])
    beta = np.zeros(T + 1)
    beta[1:] = 1 - abar[1:] / abar[:-1]
    posterior = np.zeros(T + 1)
    posterior[1:] = beta[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    return Tables(np.concatenate([[-1], index]), abar, beta, posterior)
