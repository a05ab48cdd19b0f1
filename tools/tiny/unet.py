"""The UNet of tiny-sd: UNet2DConditionModel with attention at every level, epsilon prediction, Stable Diffusion's schedule."""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from graft_common.training import fit

SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip

OFFSET = 0.15  # standard deviation of the extra noise that a whole channel shares
GAMMA = 5.0  # min-SNR weighting (Hang et al. 2023): the easy, nearly clean times do not take the whole gradient


def make() -> UNet2DConditionModel:
    """3.5 million parameters, heads of 16 channels."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 112),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=(4, 7),
        norm_num_groups=16,
    )


def train(
    latents: Tensor,
    focus: Tensor,
    texts: Tensor,
    which: Tensor,
    null: Tensor,
    exceptional: Tensor,
    folder,
    config,
    batch: int = 32,
    start: UNet2DConditionModel | None = None,
    *,
    compiled: bool = False,
    **options,
):
    """Fit the UNet, from new weights or from `start`.

    Args:
        latents: (n, 4, h, w) scaled posterior means.
        focus: (n, h, w) weights >= 0, larger where the caption's finding is.
        texts: (captions, 77, D) frozen text states; `which` (n,) names each latent's row.
        null: (77, D) states of the empty caption: every tenth sample sees it (for guidance).
        exceptional: (77, D) the exceptional prompt: every twenty-fifth sample sees it. A model trained on billions of
            pictures bears an input without words; one trained on thousands has to meet it.
    """
    torch.manual_seed(config.seed)
    unet = (start or make()).to(memory_format=torch.channels_last).train().requires_grad_(True)
    if compiled:
        unet.compile()
    abar = DDIMScheduler(**SCHEDULE).alphas_cumprod
    snr = abar / (1 - abar)
    share = snr.clamp(max=GAMMA) / snr  # of an epsilon loss

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        pick = torch.randint(len(latents), (batch,), generator=gen)
        # Stratified times: one in each of `batch` equal spans, so that a batch's loss varies less.
        t = ((torch.arange(batch) + torch.rand(batch, generator=gen)) * 1000 / batch).long().clamp(max=999)
        eps = torch.randn(latents[pick].shape, generator=gen)
        # The schedule ends with a little signal left, enough to read a picture's overall tone from its noise. Sampling starts
        # without it. Noise whose mean varies more hides the tone, so that the words have to give it.
        eps = eps + OFFSET * torch.randn((batch, eps.shape[1], 1, 1), generator=gen)
        a = abar[t].view(-1, 1, 1, 1)
        x = a.sqrt() * latents[pick] + (1 - a).sqrt() * eps
        drop = torch.rand(batch, generator=gen)
        context = texts[which[pick]].clone()
        context[drop < 0.10] = null
        context[drop > 0.96] = exceptional
        weight = 1 + focus[pick].unsqueeze(1)
        weight = share[t].view(-1, 1, 1, 1) * weight / weight.mean(dim=(1, 2, 3), keepdim=True)
        device = next(module.parameters()).device
        out = module(x.to(device, memory_format=torch.channels_last), t.to(device), context.to(device)).sample
        return (weight.to(device) * F.mse_loss(out.float(), eps.to(device), reduction="none")).mean()

    fitted = fit(unet, loss, config, folder, **options)
    unet.load_state_dict({**unet.state_dict(), **fitted.average})
    return unet.eval().requires_grad_(False), fitted
