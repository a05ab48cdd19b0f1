"""Weights on disk: Paint-by-Example's diffusers folder, component by component, and beside it what MObI adds.

unet, vae, image_encoder, scheduler and feature_extractor (or image_processor) are as published; their classes load them one by
one, since diffusers 0.42 cannot load that pipeline's own index. In the folder itself lie `joint.safetensors` (box adapters,
cross-modal attentions, box encoder and null vector) and `range_vae.safetensors` (the range crops' first and last stage), each
with its settings in the header. A folder without these two is a base to train from.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graft_common import bundle as bundles
from graft_common.bundle_layout import store_dtype
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.device import pick_device, pick_dtype
from graft_common.errors import InputError
from graft_common.files import atomic_path, one_line, write_text
from graft_common.provenance import folder_digest
from graft_common.rng import generator
from graft_common.settings import ModelConfig
from mobi.box_encoder import BoxEncoder
from mobi.image_encoder import FEATURE_FOLDERS, MEAN, STD, check_features, load_image_encoder
from mobi.joint import ORDERS, Order, base_state, joint_state, wrap
from mobi.range_vae import RangeVae

JOINT, RANGE = "joint.safetensors", "range_vae.safetensors"
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
FILES = (
    bundles.INDEX, "scheduler/scheduler_config.json", *(f"{name}/preprocessor_config.json" for name in FEATURE_FOLDERS),
    *(f"{part}/config.json" for part in PARTS), JOINT, RANGE,
    *(
        f"{part}/{stem}{end}"
        for part, stem in PARTS.items()
        for end in (".safetensors", ".safetensors.index.json", "-[0-9]*-of-[0-9]*.safetensors")
    ),
)  # fmt: skip
Drops = Literal["joint", "separate"]
Parts = Literal["adapters", "all"]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """What the network is beyond the base's own configuration; the headers of the two files hold it.

    Attributes:
        order: of the cross-modal attentions, see `mobi.joint.JointBlock`.
        drops: "separate": training also dropped reference and box each alone, so their guidance scales may differ. "joint": it
            dropped them together only, as the authors' did.
        hidden: width inside the box encoder.
        middle_norm: see `mobi.range_vae.RangeVae`.
        parts: what joint training changed: what MObI adds ("adapters"), or with it the base's UNet ("all").
        guidance: the scale that suits the weights; the paper's by default.
    """

    order: Order = "sequential"
    drops: Drops = "separate"
    hidden: int = 512
    middle_norm: bool = True
    parts: Parts = "adapters"
    guidance: float = 5.0


@dataclass(frozen=True, eq=False)
class Base:
    """Paint-by-Example in parts, in evaluation mode, without gradients.

    Attributes:
        name: shipped name, hub id, or base name of the folder.
        folder: where it was loaded from.
        unet: stock `UNet2DConditionModel`, 9 channels in.
        vae: `AutoencoderKL`, in float32.
        image_encoder: `PaintByExampleImageEncoder`.
        schedule: content of scheduler/scheduler_config.json.
    """

    name: str
    folder: Path
    unet: Any
    vae: Any
    image_encoder: Any
    schedule: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Mobi:
    """The whole model in parts, on one device, in evaluation mode, without gradients for its parameters.

    Attributes:
        name, folder, vae, image_encoder, schedule: as in `Base`.
        unet: wrapped by `mobi.joint.wrap`.
        range_vae: shares `vae`; float32.
        box_encoder: float32, since box numbers would lose their last digits in less.
        joint: settings.
    """

    name: str
    folder: Path
    unet: Any
    vae: Any
    range_vae: RangeVae
    image_encoder: Any
    box_encoder: BoxEncoder
    schedule: dict[str, Any]
    joint: Joint

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Latent channels."""
        return int(self.vae.config.latent_channels)

    @property
    def size(self) -> int:
        """D, side of the crops that it was trained at, in pixels."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def weights(self) -> dict[str, str]:
        """Name and digest for the run record."""
        return {"name": self.name, "sha256": folder_digest(self.folder, only=FILES)}


def load_base(weights: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Base:
    """Paint-by-Example, or the part of a MObI folder that is it; UNet and image encoder in `dtype`, the VAE in float32.

    Raises:
        InputError: unknown weights, or a part is missing, damaged or a pickle.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    name, folder = bundles.find(weights, FILES)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for part in PARTS:
        if not any((folder / part).glob("*.safetensors")):
            old = next((folder / part).glob("*.bin"), None)
            what = f"{part}/{old.name} is a pickle, which is never read" if old else f"{part} has no safetensors"
            cure = "turn it into safetensors with `tools/convert_checkpoint.py state`" if old else "copy the whole folder again"
            raise InputError(f"--weights {weights}: {what}; {cure}")
    local: dict[str, Any] = {"local_files_only": True, "low_cpu_mem_usage": True, "use_safetensors": True}
    try:
        check_features(folder)
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        if not isinstance(schedule, dict) or "beta_schedule" not in schedule:  # diffusers would take its own default
            raise ValueError("scheduler_config.json names no beta_schedule")
        image_encoder = load_image_encoder(folder / "image_encoder", dtype)
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, **local)
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype, **local)
        channels, token = 2 * vae.config.latent_channels + 1, image_encoder.proj_out.out_features
        if unet.config.in_channels != channels or unet.config.cross_attention_dim != token:
            raise ValueError(
                f"its UNet takes {unet.config.in_channels} channels and tokens of {unet.config.cross_attention_dim}, its other "
                f"parts give {channels} and {token}: it is no Paint-by-Example"
            )
    except Exception as why:  # safetensors, json and the two libraries each raise their own
        raise InputError(f"--weights {weights}: cannot be loaded ({one_line(why)}); check that the folder is complete") from why
    for module in (unet, vae, image_encoder):
        _ready(module, device)
    return Base(name, folder, unet, vae, image_encoder, schedule)


def start_mobi(base: Base, seed: int, joint: Joint | None = None) -> Mobi:
    """A model to train: the base, wrapped (its UNet is changed in place), with zero gates and everything else new drawn by `seed`.

    Raises:
        ValueError: the base's UNet is wrapped already, or is not of Stable Diffusion 1's kind.
    """
    joint = joint or Joint()
    where = next(base.unet.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator(seed))))
        wrap(base.unet, joint.order)
        box_encoder = BoxEncoder(base.unet.config.cross_attention_dim, joint.hidden)
        range_vae = RangeVae(base.vae, joint.middle_norm)
    nn.Module.to(base.unet, where.device, where.dtype)  # diffusers' own warns of layers to keep in float32, it lists none
    for module in (base.unet, box_encoder, range_vae):
        _ready(module, where.device)
    return Mobi(
        base.name, base.folder, base.unet, base.vae, range_vae, base.image_encoder, box_encoder, base.schedule, joint
    )


def load_mobi(config: ModelConfig) -> Mobi:
    """The model on the device and in the precision that the configuration asks for; kept for the next call.

    Raises:
        InputError: unknown or damaged weights, weights that are only a base, or a GPU asked for where there is none.
    """
    device = pick_device(config.device)
    return _load(config.weights, device.type, pick_dtype(config.dtype, device))


@lru_cache(maxsize=1)
def _load(weights: str, device: str, dtype: torch.dtype) -> Mobi:
    _, folder = bundles.find(weights, FILES)
    for file in (JOINT, RANGE):
        if not (folder / file).is_file():
            raise InputError(
                f"--weights {weights}: the folder has no {file}, so it is only a base; train it with `graft-mobi train-range-vae` "
                "and `graft-mobi train`, or give a folder that they wrote"
            )
    joint = _read_settings(folder, weights)
    mobi = start_mobi(load_base(weights, device, dtype), 0, joint)
    fill(joint_tensors(mobi), load_weights(folder / JOINT), folder / JOINT)
    fill(mobi.range_vae.state_dict(), load_weights(folder / RANGE), folder / RANGE)
    return mobi


def _read_settings(folder: Path, weights: str) -> Joint:
    header = read_config(folder / JOINT) | read_config(folder / RANGE)
    try:
        order, drops, hidden, middle_norm = (header[key] for key in ("order", "drops", "hidden", "middle_norm"))
        parts = header.get("parts", "adapters")  # the authors' converted weights and older files say nothing
        guidance = header.get("guidance", Joint.guidance)
        known = order in ORDERS and drops in get_args(Drops) and parts in get_args(Parts)
        if not known or type(hidden) is not int or type(middle_norm) is not bool or not 0 <= guidance <= 100:
            raise ValueError(f"{header}")
    except (KeyError, TypeError, ValueError) as why:
        raise InputError(
            f"--weights {weights}: the header of {JOINT} or {RANGE} is damaged ({type(why).__name__}: {one_line(why)}); "
            "train or copy it again"
        ) from why
    return Joint(order=order, drops=drops, hidden=hidden, middle_norm=middle_norm, parts=parts, guidance=float(guidance))


def joint_tensors(mobi: Mobi) -> dict[str, Tensor]:
    """What joint training adds, as stored: `unet.<path>` and `box_encoder.<path>` -> tensor, not copied."""
    return {f"unet.{key}": t for key, t in joint_state(mobi.unet).items()} | {
        f"box_encoder.{key}": t for key, t in mobi.box_encoder.state_dict().items()
    }


@torch.no_grad()
def fill(into: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path) -> None:
    """Copy stored weights into a network's own. Raises InputError, beginning with the path, where they are not the same set."""
    wrong = sorted(set(into) ^ set(stored)) or [key for key, t in into.items() if t.shape != stored[key].shape]
    if wrong:
        raise InputError(
            f"{path}: does not fit the network ({len(wrong)} weights missing, left over or of another shape, {wrong[0]} first); "
            "give the file that was trained with this base"
        )
    for key, t in into.items():
        t.copy_(stored[key])


def save_mobi(folder: Path, mobi: Mobi, half: bool = True) -> None:
    """Write the whole folder; weights in half precision when `half`. model_index.json comes last.

    diffusers' and transformers' classes load unet, vae, image_encoder and scheduler from it as they are.
    """
    dtype = torch.float16 if half else torch.float32
    write_text(folder / "scheduler" / "scheduler_config.json", _json(mobi.schedule))
    mobi.vae.save_pretrained(folder / "vae")
    mobi.image_encoder.save_pretrained(folder / "image_encoder")
    save_unet(folder / "unet", mobi.unet)
    store_dtype(folder, dtype)
    for path in sorted(folder.glob("*/config.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)  # where it was loaded from on this machine is nobody's business
        if path.parent.name == "image_encoder":
            content["dtype"] = "float32"  # transformers otherwise loads the stored precision, diffusers does not
        write_text(path, _json(content))
    write_text(folder / "feature_extractor" / "preprocessor_config.json", _json(features()))
    save_joint(folder, mobi, dtype)
    save_range(folder, mobi, dtype)
    write_text(folder / bundles.INDEX, _json(index()))


def save_unet(folder: Path, unet: Any) -> None:
    """The stock part of a wrapped UNet, under the stock keys."""
    unet.save_config(folder)
    with atomic_path(folder / "diffusion_pytorch_model.safetensors") as beside:
        tensors = {key: t.detach().cpu().contiguous() for key, t in base_state(unet).items()}
        save_file(tensors, beside, metadata={"format": "pt"})


def save_joint(folder: Path, mobi: Mobi, dtype: torch.dtype = torch.float32) -> None:
    """`joint.safetensors` alone."""
    header = {key: value for key, value in asdict(mobi.joint).items() if key != "middle_norm"}
    save_weights(folder / JOINT, {key: t.to(dtype) for key, t in joint_tensors(mobi).items()}, header)


def save_range(folder: Path, mobi: Mobi, dtype: torch.dtype = torch.float32) -> None:
    """`range_vae.safetensors` alone."""
    tensors = {key: t.to(dtype) for key, t in mobi.range_vae.state_dict().items()}
    save_weights(folder / RANGE, tensors, {"middle_norm": mobi.joint.middle_norm})


def features() -> dict[str, Any]:
    """feature_extractor/preprocessor_config.json: CLIP's."""
    return {
        "crop_size": 224, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(MEAN), "image_std": list(STD),
        "resample": 3, "size": 224,
    }  # fmt: skip


def index() -> dict[str, Any]:
    """model_index.json: Paint-by-Example's parts and whose classes they are."""
    return {
        "_class_name": "PaintByExamplePipeline", "_diffusers_version": "0.10.0.dev0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"], "requires_safety_checker": False,
        "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _ready(module: Any, device: torch.device | str) -> None:
    nn.Module.to(module, torch.device(device))
    module.eval().requires_grad_(False)
