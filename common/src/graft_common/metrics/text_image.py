"""CLIP scores (Radford et al. 2021): 100 x cosine between pictures, or between a picture and a text.

`tiny` is the image-text pair trained on phantoms. It is not CLIP, and its numbers are not on CLIP's scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from graft_common.errors import InputError
from graft_common.files import one_line, typed
from graft_common.metrics.judges import Judges, load_judges


@dataclass(frozen=True)
class _Towers:
    """Unit vectors of pictures (B, 3, H, W) in [-1, 1] and of texts."""

    image: Callable[[Tensor], Tensor]
    text: Callable[[Sequence[str]], Tensor]


def image_similarity(
    a: Float[Tensor, "B 3 H W"],
    b: Float[Tensor, "B 3 H2 W2"],
    backbone: str = "tiny",
    judges: Judges | None = None,
    batch: int = 32,
) -> Float[Tensor, "B"]:
    """100 x cosine of two pictures' embeddings, pair by pair; 100 for equal ones. It is `name("clip_image", backbone)`.

    Args:
        a, b: pictures in [-1, 1]; sizes may differ.
        backbone: "tiny", a local folder of transformers' CLIPModel, or a hub id with a "/" (fetched only because it is
            named), e.g. openai/clip-vit-base-patch32.
        judges: loaded judges instead of the shipped ones (tiny only).
        batch: pictures at once.

    Raises:
        InputError: the backbone cannot be loaded.
    """
    towers = _towers(backbone, judges, str(a.device))
    pairs = zip(a.split(batch), b.split(batch), strict=True)
    return torch.cat([100 * (towers.image(x) * towers.image(y)).sum(dim=1) for x, y in pairs])


def text_similarity(
    images: Float[Tensor, "B 3 H W"],
    texts: Sequence[str],
    backbone: str = "tiny",
    judges: Judges | None = None,
    batch: int = 32,
) -> Float[Tensor, "B"]:
    """100 x cosine of each picture's embedding and its text's. It is `name("clip_text", backbone)`.

    Args:
        images: pictures in [-1, 1].
        texts: one per picture.
        backbone, judges, batch: as `image_similarity`. The tiny pair was trained on captions of up to 32 tokens.

    Raises:
        InputError: the backbone cannot be loaded, or a text is longer than its positions (nothing is cut in silence).
        ValueError: as many texts as pictures were not given.
    """
    if len(texts) != len(images):
        raise ValueError(f"there are {len(texts)} texts but {len(images)} pictures; give one text for each")
    towers = _towers(backbone, judges, str(images.device))
    unique = list(dict.fromkeys(texts))
    vectors = torch.cat([towers.text(unique[i : i + batch]) for i in range(0, len(unique), batch)])
    wanted = vectors[torch.tensor([unique.index(t) for t in texts], device=vectors.device)]
    pictures = torch.cat([towers.image(x) for x in images.split(batch)])
    return 100 * (pictures * wanted).sum(dim=1)


def clip_scores(
    images: Float[Tensor, "B 3 H W"],
    texts: Sequence[str] | None = None,
    others: Float[Tensor, "B 3 H2 W2"] | None = None,
    backbone: str = "tiny",
    judges: Judges | None = None,
) -> dict[str, Float[Tensor, "B"]]:
    """`{name("clip_text", backbone): (B,), name("clip_image", backbone): (B,)}`, each where its input was given."""
    from graft_common.metrics.report import name

    out = {}
    if texts is not None:
        out[name("clip_text", backbone)] = text_similarity(images, texts, backbone, judges)
    if others is not None:
        out[name("clip_image", backbone)] = image_similarity(images, others, backbone, judges)
    return out


def caption_ids(tokenizer: Any, texts: Sequence[str], limit: int) -> Int[Tensor, "B L"]:
    """Token ids with begin and end, padded with the end token to the longest; InputError above `limit` tokens."""
    rows = tokenizer(list(texts)).input_ids
    for text, row in zip(texts, rows, strict=True):
        if len(row) > limit:
            raise InputError(f"{text!r}: has {len(row)} tokens with begin and end, {limit} fit; shorten it")
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])


def _towers(backbone: str, judges: Judges | None, device: str) -> _Towers:
    if backbone == "tiny":
        return _tiny(judges or load_judges(device=device))
    return _published(backbone, device)


def _tiny(judges: Judges) -> _Towers:
    pair, tokenizer = judges.pair, judges.tokenizer
    like, limit = pair.places, len(pair.places)

    @torch.no_grad()
    def image(x: Tensor) -> Tensor:
        return pair.embed_image(x.to(like.dtype))

    @torch.no_grad()
    def text(texts: Sequence[str]) -> Tensor:
        return pair.embed_text(caption_ids(tokenizer, texts, limit).to(like.device), tokenizer.eos_token_id)

    return _Towers(image, text)


@lru_cache(maxsize=1)
def _published(backbone: str, device: str) -> _Towers:
    """transformers' CLIPModel with its own processing: a local folder without a look at the network, else a hub id."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    local = Path(backbone).is_dir()
    if not local and ("/" not in backbone or Path(backbone).is_absolute() or backbone.startswith(".")):
        raise InputError(
            f"--clip {typed(backbone)}: no such folder; give tiny, a folder of transformers' CLIPModel, or a hub id "
            "with a '/'"
        )
    try:
        model = CLIPModel.from_pretrained(backbone, local_files_only=local, use_safetensors=True)  # no pickle
        model = model.eval().requires_grad_(False).to(device)
        processor = CLIPImageProcessor.from_pretrained(backbone, local_files_only=local)
        tokenizer = CLIPTokenizer.from_pretrained(backbone, local_files_only=local)
    except Exception as why:  # the hub client and the readers raise many kinds: offline, misspelt, not a CLIP, damaged
        raise InputError(
            f"--clip {typed(backbone)}: cannot be loaded ({one_line(why)}); check the folder or hub id"
        ) from why
    limit = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def image(x: Tensor) -> Tensor:
        # float pictures in [0, 1] go through CLIP's own resize, crop and normalisation, without an 8-bit step
        unit = list((x.float().clamp(-1, 1) + 1) / 2)
        pixels = processor(images=unit, do_rescale=False, return_tensors="pt").pixel_values
        return F.normalize(model.get_image_features(pixel_values=pixels.to(device)).pooler_output, dim=-1)

    @torch.no_grad()
    def text(texts: Sequence[str]) -> Tensor:
        # causal attention and pooling at the first end token: what pads the rows cannot change a vector
        ids = caption_ids(tokenizer, texts, limit).to(device)
        return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)

    return _Towers(image, text)
