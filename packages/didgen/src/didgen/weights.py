"""Name, folder or hub id -> the network with its placeholder tokens, on a device.

Two forms, told apart by their files. A full bundle in diffusers layout whose tokenizer knows the placeholders, as
`train --lora-rank 0` writes it. Or a small folder with `didgen.json` (which base, which rank) and `unet_lora.safetensors`, as
`train --lora-rank R` writes it: the base is looked up by name, the placeholders are added, and LoRA is merged into the UNet, so
that nothing of it costs time later.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import torch

from didgen.config import ModelConfig
from didgen.tokens import Init, add_placeholders, has_placeholders
from graft_common import bundle as bundles
from graft_common.bundle import Bundle
from graft_common.checkpoint import load_weights
from graft_common.device import pick_device, pick_dtype
from graft_common.errors import InputError
from graft_common.provenance import folder_digest

MARK, LORA, GUIDANCE, SEEN = "didgen.json", "unet_lora.safetensors", "guidance.json", "attributes.json"
ETA = 20.0  # eq. 4.10 at 512 px
TARGETS = (
    r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv|conv_shortcut|time_emb_proj)"
)


@dataclass(frozen=True)
class Model:
    """A network that knows the placeholders.

    Attributes:
        bundle: its parts; parameters are frozen.
        guidance: content of guidance.json: `eta` of the layout guidance and `box` of the box guidance.
        seen: attribute -> values that its training captions named; empty where the folder does not say.
        folder: where the weights lie; the base's files are not in it for LoRA weights.
    """

    bundle: Bundle
    guidance: dict[str, float]
    seen: dict[str, tuple[str, ...]]
    folder: Path

    def weights(self) -> dict[str, str]:
        """Name and digest for the run record, the step sizes and known words included; LoRA weights name their base's too."""
        if self.folder == self.bundle.folder:
            return {"name": self.bundle.name, "sha256": bundles.digest(self.folder, GUIDANCE, SEEN)}
        own, base = folder_digest(self.folder), bundles.digest(self.bundle.folder)
        return {"name": self.bundle.name, "sha256": own, "base_sha256": base}


def shipped() -> dict[str, Path]:
    """name -> folder of the LoRA weights in this package."""
    return {p.parent.name: p.parent for p in sorted((Path(__file__).parent / "weights").glob(f"*/{MARK}"))}


def load_model(config: ModelConfig) -> Model:
    """The model on the device and in the precision that the configuration asks for; kept for the next call.

    Raises:
        InputError: unknown weights, weights without the placeholders, or a GPU asked for where there is none.
    """
    device = pick_device(config.device)
    return _load(config.weights, device.type, pick_dtype(config.dtype, device))


@lru_cache(maxsize=2)
def _load(weights: str, device: str, dtype: torch.dtype) -> Model:
    folder = shipped().get(weights, Path(weights))
    if (folder / MARK).is_file():
        return _load_lora(weights, folder, device, dtype)
    try:
        bundle = bundles.load(weights, device, dtype)
    except InputError as why:
        if str(why).startswith(f"--weights {weights}: no such bundle"):
            raise InputError(f"{why}, {', '.join(shipped())}") from None
        raise
    if not has_placeholders(bundle.tokenizer):
        raise InputError(
            f"--weights {weights}: its tokenizer lacks <lesion> and <skin>; fine-tune it with `graft-didgen train` first"
        )
    return Model(bundle, read_guidance(bundle.folder), read_seen(bundle.folder), bundle.folder)


def _load_lora(weights: str, folder: Path, device: str, dtype: torch.dtype) -> Model:
    mark = read_mark(folder / MARK, weights)
    base = bundles.load(mark["base"])  # in float32: LoRA is merged before anything is rounded
    digest = bundles.digest(base.folder)
    if digest != mark["base_sha256"]:
        raise InputError(
            f"--weights {weights}: was trained on another {mark['base']} (digest {mark['base_sha256'][:12]}, here {digest[:12]}); "
            "train it again with `graft-didgen train`"
        )
    add_placeholders(base.tokenizer, base.text_encoder, mark["init"])
    merge_lora(base.unet, folder / LORA, mark["rank"], weights)
    torch.nn.Module.to(base.unet, device, dtype)  # diffusers' own warns of layers to keep in float32, of which it lists none
    base.unet.eval().requires_grad_(False)
    base.text_encoder.to(device, dtype)
    base.vae.to(device)
    return Model(replace(base, name=folder.resolve().name), read_guidance(folder), read_seen(folder), folder)


def read_mark(path: Path, weights: str) -> dict[str, Any]:
    """didgen.json: base, base_sha256, rank, init.

    Raises:
        InputError: it cannot be read or lacks a key.
    """
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        found = {key: mark[key] for key in ("base", "base_sha256", "rank", "init")} | {"rank": int(mark["rank"])}
        if found["rank"] < 1 or found["init"] not in get_args(Init):
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise InputError(f"--weights {weights}: {path.name} is damaged ({type(why).__name__}); copy the folder again") from None


def read_guidance(folder: Path) -> dict[str, float]:
    """Step sizes that the weights were tuned with; the paper's where the folder has none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / GUIDANCE
    stored = {}
    if path.is_file():
        try:
            stored = {key: float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
            if not all(math.isfinite(value) and value >= 0 for value in stored.values()):
                raise ValueError
        except (OSError, ValueError, AttributeError, TypeError) as why:
            raise InputError(
                f"{path}: is no guidance file ({type(why).__name__}); write numbers of 0 or more, as {{\"eta\": 20}}"
            ) from None
    return {"eta": ETA, "box": ETA} | stored


def read_seen(folder: Path) -> dict[str, tuple[str, ...]]:
    """Values that stand in at least one in two hundred training captions, by attribute."""
    path = folder / SEEN
    if not path.is_file():
        return {}
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        least = {name: max(1, sum(c.values()) // 200) for name, c in counts.items()}
        return {name: tuple(v for v, n in c.items() if n >= least[name]) for name, c in counts.items()}
    except (OSError, ValueError, AttributeError, TypeError) as why:
        raise InputError(f"{path}: is damaged ({type(why).__name__}); copy the folder again") from None


def add_lora(unet: Any, rank: int) -> None:
    """Put an untrained LoRA adapter on every convolution, attention and feed-forward layer; only it asks for gradients."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, lora_dropout=0.0), "didgen")


def lora_state(unet: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors under peft's own names."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(unet, adapter_name="didgen"))


def merge_lora(unet: Any, file: Path, rank: int, weights: str) -> None:
    """Add a stored adapter to the UNet's own weights; no trace of it remains in the modules.

    Raises:
        InputError: the file is damaged or fits another network.
    """
    from peft import set_peft_model_state_dict

    tensors = load_weights(file)
    add_lora(unet, rank)
    wanted = lora_state(unet)
    wrong = sorted(set(wanted) ^ set(tensors)) or [k for k in wanted if wanted[k].shape != tensors[k].shape]
    if wrong:
        raise InputError(f"--weights {weights}: {file.name} fits another network ({wrong[0]}); train on this base instead")
    set_peft_model_state_dict(unet, {k: v.float() for k, v in tensors.items()}, adapter_name="didgen")
    unet.fuse_lora(adapter_names=["didgen"])
    unet.unload_lora()
