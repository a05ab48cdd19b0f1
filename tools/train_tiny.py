"""Train the tiny weights that Graft ships: `train_tiny.py tiny-sd --out runs/tiny-sd`.

Every stage resumes where it stopped and is skipped when it is done, so the same command continues an interrupted run:
draw (phantoms) -> vae -> text -> unet -> assemble, and judges (the classifier and the image-text pair that grade it).
`--only grade` prints the model card's numbers for the shipped weights, on seeds that no stage has seen.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parent))
# Two training threads that spin while another process wants the core cost a factor of ten.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

STAGES = ("draw", "vae", "text", "unet", "judges", "decoder", "assemble")
MORE = ("grade",)


@dataclass(frozen=True)
class TrainConfig:
    """Train tiny weights on phantoms."""

    name: tyro.conf.Positional[Literal["tiny-sd"]]
    """Which weights."""
    out: Path = Path("runs/tiny-sd")
    """Folder of caches, checkpoints and logs."""
    only: tuple[Literal["draw", "vae", "text", "unet", "judges", "decoder", "assemble", "grade"], ...] = STAGES
    """Stages to run, in this order."""
    pictures: int = 42_000
    """Training phantoms over all worlds."""
    size: int = 64
    """Side of the training pictures in pixels; the VAE's factor is 4."""
    vae_steps: int = 2400
    """Optimiser steps of the VAE."""
    decoder_steps: int = 800
    """Further steps of the decoder alone, on the finished latent code."""
    text_steps: int = 600
    """Optimiser steps of the text encoder (it learns to name the caption's attributes)."""
    unet_steps: int = 4500
    """Optimiser steps of the UNet."""
    judge_steps: int = 1500
    """Optimiser steps of the world classifier; the image-text pair takes a third."""
    per_world: int = 100
    """Generated pictures a world when grading."""
    batch: int = 32
    """Pictures per step."""
    precision: Literal["no", "bf16"] = "bf16"
    """Mixed precision of the VAE (on the CPU the other stages run in float32, which is as fast there)."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Seed of every stage."""


def main(config: TrainConfig) -> None:
    import torch

    from tiny import stages

    torch.set_num_threads(config.threads)
    for stage in (*STAGES, *MORE):
        if stage in config.only:
            getattr(stages, stage)(config)


if __name__ == "__main__":
    main(tyro.cli(TrainConfig))
