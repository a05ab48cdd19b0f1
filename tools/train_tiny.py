"""Train the tiny weights that Graft ships: `train_tiny.py tiny-sd --out runs/tiny-sd`, then `train_tiny.py tiny-didgen`, and
`tiny-texture`, `tiny-scene`, `tiny-mobi` and `judge-mobi` for themselves.

Every stage resumes where it stopped and is skipped when it is done, so the same command continues an interrupted run:
draw (phantoms) -> vae -> text -> unet -> assemble, and judges (the classifier and the image-text pair that grade it).
`--only grade` prints the model card's numbers for the shipped weights, on seeds that no stage has seen.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parent))
# Two training threads that spin while another process wants the core cost a factor of ten.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tiny.didgen import DidgenConfig
from tiny.didgen import run as train_didgen
from tiny.diffusionmix import SceneConfig, TextureConfig
from tiny.diffusionmix import run as train_mix
from tiny.mobi import MobiConfig
from tiny.mobi import run as train_mobi
from tiny.mobi_judge import JudgeConfig
from tiny.mobi_judge import run as train_judges

STAGES = ("draw", "vae", "text", "unet", "judges", "decoder", "assemble")
MORE = ("grade",)


@dataclass(frozen=True)
class TrainConfig:
    """Train tiny-sd and its judges on phantoms of all worlds."""

    name = "tiny-sd"
    out: Path = Path("runs/tiny-sd")
    """Folder of caches, checkpoints and logs."""
    only: tuple[Literal["draw", "vae", "text", "unet", "judges", "decoder", "assemble", "grade"], ...] = STAGES
    """Stages to run, in this order."""
    start: str | None = None
    """Bundle whose VAE, text encoder and UNet training goes on from; new weights if not given."""
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
    """Mixed precision of the VAE."""
    unet_precision: Literal["no", "bf16"] = "no"
    """Mixed precision of the UNet; on the CPU bf16 pays only when it is compiled too."""
    compile: bool = False
    """Compile the VAE and the UNet for training (needs a C compiler on the CPU): 1.1 to 1.4 times as fast there."""
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


Which = (
    Annotated[TrainConfig, tyro.conf.subcommand("tiny-sd")]
    | Annotated[DidgenConfig, tyro.conf.subcommand("tiny-didgen")]
    | Annotated[TextureConfig, tyro.conf.subcommand("tiny-texture")]
    | Annotated[SceneConfig, tyro.conf.subcommand("tiny-scene")]
    | Annotated[MobiConfig, tyro.conf.subcommand("tiny-mobi")]
    | Annotated[JudgeConfig, tyro.conf.subcommand("judge-mobi")]
)
RUN = {
    TrainConfig: main, DidgenConfig: train_didgen, TextureConfig: train_mix, SceneConfig: train_mix, MobiConfig: train_mobi,
    JudgeConfig: train_judges,
}  # fmt: skip

if __name__ == "__main__":
    chosen = tyro.cli(Which, config=(tyro.conf.OmitArgPrefixes,))  # type: ignore[arg-type]
    RUN[type(chosen)](chosen)
