"""The small networks that grade phantom-trained models: a world classifier and an image-text pair.

They stand where AlexNet's LPIPS and CLIP stand for photographs, and their names say so (`lpips_tiny`, `clip_tiny`):
they know the phantom worlds and nothing else.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from graft_common.checkpoint import load_weights, read_config
from graft_common.errors import InputError
from graft_common.files import one_line

SIDE = 64  # pixels; pictures of another size are resized to this


def fit_side(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 64 64"]:
    """Pictures in [-1, 1] at the judges' size (antialiased bilinear; untouched when they have it)."""
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


class Trunk(nn.Module):
    """Four stages of convolutions, halving each time; returns the feature map of every stage."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        steps, before = [], 3
        for width in widths:
            block = [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            block += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            steps.append(nn.Sequential(*block))
            before = width
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, 64, 64) in [-1, 1] -> maps (B, c, 32, 32), (B, c, 16, 16), (B, c, 8, 8), (B, c, 4, 4)."""
        maps = []
        for step in self.steps:
            x = step(x)
            maps.append(x)
        return maps


class WorldClassifier(nn.Module):
    """Names the phantom world of a picture and every caption attribute.

    Args:
        heads: head name ("world", or "<world>.<attribute>") -> class names.
        widths: channels of the four stages.
    """

    def __init__(self, heads: dict[str, list[str]], widths: tuple[int, ...] = (24, 48, 80, 112)) -> None:
        super().__init__()
        self.heads = {name: list(values) for name, values in heads.items()}
        self.widths = tuple(widths)
        self.trunk = Trunk(widths)
        # 2 x 2 cells keep left and right apart; max beside mean keeps small findings alive.
        self.shared = nn.Linear(2 * 4 * widths[-1], 128)
        self.out = nn.ModuleDict({k.replace(".", "__"): nn.Linear(128, len(v)) for k, v in heads.items()})

    def embed(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 128"]:
        """The feature vector that Frechet distances are taken on; x in [-1, 1]."""
        last = self.trunk(fit_side(x))[-1]
        pooled = torch.cat([F.adaptive_avg_pool2d(last, 2), F.adaptive_max_pool2d(last, 2)], dim=1)
        return F.silu(self.shared(pooled.flatten(1)))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        """x in [-1, 1] -> logits (B, classes) by head name."""
        shared = self.embed(x)
        return {name: self.out[name.replace(".", "__")](shared) for name in self.heads}


class ImageText(nn.Module):
    """A contrastive pair (Radford et al. 2021) for phantoms: both towers end in the same 64 unit-length numbers."""

    def __init__(
        self,
        vocabulary: int,
        length: int = 77,
        widths: tuple[int, ...] = (24, 40, 64, 96),
        width: int = 64,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(widths)
        self.image = nn.Sequential(nn.Linear(2 * 4 * widths[-1], 128), nn.SiLU(), nn.Linear(128, 64))
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.text = nn.Linear(width, 64)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def embed_image(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 64"]:
        """x in [-1, 1] -> unit vectors."""
        last = self.trunk(fit_side(x))[-1]
        pooled = torch.cat([F.adaptive_avg_pool2d(last, 2), F.adaptive_max_pool2d(last, 2)], dim=1)
        return F.normalize(self.image(pooled.flatten(1)), dim=-1)

    def embed_text(self, ids: Int[Tensor, "B L"], end: int) -> Float[Tensor, "B 64"]:
        """Token ids padded with `end` (whatever follows the first `end` is ignored) -> unit vectors."""
        after = (ids == end).cumsum(dim=1) > 1
        h = self.tokens(ids) + self.places[: ids.shape[1]]
        h = self.encoder(h, src_key_padding_mask=after)
        kept = (~after).unsqueeze(-1).to(h.dtype)
        return F.normalize(self.text((h * kept).sum(dim=1) / kept.sum(dim=1)), dim=-1)


@dataclass(frozen=True)
class Judges:
    """The loaded pair: classifier, image-text network, and the tokenizer that the latter reads."""

    classifier: WorldClassifier
    pair: ImageText
    tokenizer: Any
    folder: Path


def load_judges(folder: Path | None = None, device: str = "cpu") -> Judges:
    """Load the shipped judges (kept in memory), or those in `folder`.

    Args:
        folder: holds classifier.safetensors, pair.safetensors and tokenizer/.
        device: where the networks go; they are in float32 and evaluation mode, without gradients for their weights.

    Raises:
        InputError: a part is missing or damaged.
    """
    return _shipped(device) if folder is None else _load(Path(folder), device)


@lru_cache(maxsize=2)
def _shipped(device: str) -> Judges:
    return _load(Path(__file__).parents[1] / "weights" / "judges", device)


def _load(folder: Path, device: str) -> Judges:
    classifier = _network(WorldClassifier, folder / "classifier.safetensors", device)
    pair = _network(ImageText, folder / "pair.safetensors", device)
    return Judges(classifier, pair, _tokenizer(folder / "tokenizer"), folder)


def _network(kind: type[nn.Module], path: Path, device: str) -> Any:
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in read_config(path)["network"].items()}
    with torch.random.fork_rng(devices=[]):  # building a network draws numbers that the caller did not ask for
        network = kind(**config)
    try:
        network.load_state_dict({k: v.float() for k, v in load_weights(path).items()}, strict=True)
    except RuntimeError as why:
        raise InputError(
            f"{path}: does not fit its own configuration ({one_line(why)}); train or copy it again"
        ) from why
    return network.eval().requires_grad_(False).to(device)


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    if not folder.is_dir():  # else the name would be looked up as a hub id
        raise InputError(f"{folder}: no such folder; the judges need their tokenizer, copy them again")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
