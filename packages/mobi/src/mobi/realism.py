"""How real an edit looks: what FID, LPIPS, CLIP-I, D-LPIPS and I-LPIPS are taken on (mobi spec section 6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from graft_common.errors import InputError
from graft_common.files import one_line, typed
from graft_common.metrics import features, image_similarity, lpips, name
from graft_common.rangeview import camera_pixels
from mobi.answers import bounds, holes
from mobi.metrics import Number
from mobi.place import range_pixels
from mobi.records import Edit, Painted, Placed

SIDE = 256  # pixels at which LPIPS sees crops
REFERENCE = 224


@dataclass(frozen=True)
class Backbones:
    """Networks of the perceptual numbers: "tiny", or a file or folder of the published ones.

    Raises:
        InputError: there is no such file of LPIPS, or the name of CLIP's would pass for the tiny one.
    """

    lpips: str = "tiny"
    clip: str = "tiny"

    def __post_init__(self) -> None:
        _ = self.names

    @property
    def names(self) -> dict[str, str]:
        """lpips, d_lpips, i_lpips, clip_i, fid -> name of the number with its network."""
        own = name("lpips", self.lpips)
        clip = name("clip_image", self.clip).removeprefix("clip_image")
        fid = "fid_tiny" if self.clip == "tiny" else name("fid_clip", self.clip)
        return {"lpips": own, "d_lpips": f"d_{own}", "i_lpips": f"i_{own}", "clip_i": f"clip_i{clip}", "fid": fid}


def patch_features(pictures: Float[Tensor, "B 3 D D"], clip: str) -> Float[np.ndarray, "B d"]:
    """What the Frechet distance is taken on: CLIP's image embeddings, not brought to unit length (as the paper's FID); with
    "tiny" the world classifier's features.

    Args:
        pictures: in [-1, 1].
        clip: as `Backbones.clip`.

    Raises:
        InputError: the network cannot be loaded.
    """
    return features(pictures) if clip == "tiny" else _clip(clip)(pictures)


@lru_cache(maxsize=1)
def _clip(backbone: str) -> Callable[[Float[Tensor, "B 3 D D"]], Float[np.ndarray, "B d"]]:
    from transformers import CLIPImageProcessor, CLIPModel

    local = Path(backbone).is_dir()
    try:
        model = CLIPModel.from_pretrained(backbone, local_files_only=local, use_safetensors=True).eval()  # no pickle
        processor = CLIPImageProcessor.from_pretrained(backbone, local_files_only=local)
    except Exception as why:  # the hub client and the readers raise many kinds
        raise InputError(f"--clip {typed(backbone)}: cannot be loaded ({one_line(why)}); check the folder or hub id") from why

    @torch.no_grad()
    def embed(pictures: Float[Tensor, "B 3 D D"]) -> Float[np.ndarray, "B d"]:
        unit = list((pictures.float().clamp(-1, 1) + 1) / 2)
        pixels = processor(images=unit, do_rescale=False, return_tensors="pt").pixel_values
        return model.get_image_features(pixel_values=pixels).pooler_output.double().numpy()

    return embed


def patches(rgbs: Sequence[UInt8[np.ndarray, "_ _ 3"]], placed: Sequence[Placed]) -> Float[Tensor, "B 3 D D"]:
    """The camera crop of pictures, edited or not, in [-1, 1]."""
    return torch.stack([camera_pixels(rgb, p.camera_crop, p.size) for rgb, p in zip(rgbs, placed, strict=True)])


def object_pictures(painted: Float[Tensor, "B 3 D D"], placed: Sequence[Placed]) -> Float[Tensor, "B 3 224 224"]:
    """The hole's bounding rectangle of each painting, not composited, at 224 x 224."""
    found = []
    for crop, p in zip(painted, placed, strict=True):
        top, bottom, left, right = bounds(holes(p)[0].numpy())
        found.append(_resized(crop[None, :, top:bottom, left:right].clamp(-1, 1), REFERENCE)[0])
    return torch.stack(found)


def reference_pictures(references: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float[Tensor, "B 3 224 224"]:
    """References at 224 x 224 in [-1, 1]."""
    batch = [torch.from_numpy(r.transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1 for r in references]
    return torch.cat([_resized(r, REFERENCE) for r in batch])


def _resized(x: Float[Tensor, "B c h w"], side: int) -> Float[Tensor, "B c side side"]:
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)


def score_realism(
    edits: Sequence[Edit], painted: Painted, originals: Sequence[Placed], references: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    networks: Backbones,
) -> tuple[list[dict[str, Number]], Float[np.ndarray, "B d"]]:  # fmt: skip
    """For each edit LPIPS of the composited patch against the original one, CLIP-I of the unblended object against its reference,
    D-LPIPS and I-LPIPS of the painted range crop against the original one; and the composited patches' features for FID.

    Args:
        originals: the scenes with the objects that were there; the same boxes as the edits'.
    """
    placed = [edit.placed for edit in edits]
    after, before = (patches(rgbs, placed) for rgbs in ([e.image.rgb for e in edits], [p.scene.rgb for p in originals]))
    lidar = torch.stack([range_pixels(p) for p in originals])
    keys = networks.names
    columns = {
        keys["lpips"]: lpips(_resized(after, SIDE), _resized(before, SIDE), networks.lpips),
        keys["clip_i"]: image_similarity(
            object_pictures(painted.camera, placed), reference_pictures(references), networks.clip
        ),
        keys["d_lpips"]: _plane_distance(painted.lidar, lidar, 0, networks.lpips),
        keys["i_lpips"]: _plane_distance(painted.lidar, lidar, 1, networks.lpips),
    }
    rows: list[dict[str, Number]] = [{key: float(column[k]) for key, column in columns.items()} for k in range(len(edits))]
    return rows, patch_features(after, networks.clip)


def _plane_distance(
    a: Float[Tensor, "B 2 D D"], b: Float[Tensor, "B 2 D D"], channel: int, backbone: str
) -> Float[Tensor, " B"]:
    """LPIPS of one normalised plane, three times as colours."""
    one, other = (_resized(x[:, channel : channel + 1].clamp(-1, 1), SIDE).expand(-1, 3, -1, -1) for x in (a, b))
    return lpips(one, other, backbone)
