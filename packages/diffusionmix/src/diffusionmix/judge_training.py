"""How the independent judges learn: a fixed number of steps on pictures in memory, the same for every arm of a comparison."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from graft_common.rng import generator

Loss = Callable[[Tensor, Tensor], Tensor]


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network whose weights depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, 61).initial_seed())
        return build()


def prepared(images: UInt8[Tensor, "n 3 H W"], device: torch.device) -> Float[Tensor, "n 3 H W"]:
    """Bytes to [-1, 1] on the device."""
    return images.to(device).float() / 127.5 - 1


def batch_rows(count: int, batch: int, seed: int, step: int) -> Int64[Tensor, "batch"]:
    """Rows of a step: permutations of all rows one after the other, cut into batches; each row is seen equally often."""
    first = step * batch
    passes = range(first // count, (first + batch - 1) // count + 1)
    stream = torch.cat([torch.randperm(count, generator=generator(seed, 62, k)) for k in passes])
    start = first - passes[0] * count
    return stream[start : start + batch]


def turned(images: Tensor, targets: Tensor, masks: bool, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Pictures (and masks) of a step mirrored and quarter-turned at random, picture and mask alike."""
    draws = torch.randint(8, (len(images),), generator=generator(seed, 63, step)).tolist()
    if images.shape[-1] != images.shape[-2]:
        draws = [k & ~1 for k in draws]  # half turns keep the shape of a picture that is not square

    def move(x: Tensor, k: int) -> Tensor:
        return torch.rot90(x.flip(-1) if k >= 4 else x, k % 4, (-2, -1))

    pictures = torch.stack([move(x, k) for x, k in zip(images, draws, strict=True)])
    return pictures, torch.stack([move(t, k) for t, k in zip(targets, draws, strict=True)]) if masks else targets


def teach(
    network: nn.Module,
    images: UInt8[Tensor, "n 3 H W"],
    targets: Tensor,
    loss: Loss,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    masks: bool,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """Train with AdamW and a cosine rate for `steps` steps, in place; returned in evaluation mode.

    Args:
        targets: (n, ...) one a picture; turned with it when `masks`.
        loss: (output, targets of the batch) -> scalar.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    network = network.to(device).to(memory_format=torch.channels_last).train()  # a fifth faster on the CPU
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / max(1, steps))))
    for step in range(steps):
        rows = batch_rows(len(images), min(batch, len(images)), seed, step)
        pictures, wanted = turned(images[rows], targets[rows], masks, seed, step)
        value = loss(network(prepared(pictures, device)), wanted.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()
        if step % 20 == 0 and not math.isfinite(float(value.detach())):
            raise FloatingPointError(f"the judge's loss is {float(value.detach())} at step {step}; lower its learning rate")
        advance(1)
    return network.eval()


@torch.no_grad()
def answers(network: nn.Module, images: UInt8[Tensor, "n 3 H W"], device: torch.device, batch: int = 32) -> Tensor:
    """What the network says, on the CPU in float32."""
    return torch.cat([network(prepared(part, device)).float().cpu() for part in images.split(batch)])
