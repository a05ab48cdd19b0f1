"""Published weights in their authors' own files -> safetensors. The only place of this repository that reads a pickle.

    python tools/convert_checkpoint.py lpips alexnet-owt-7be5be79.pth alex.safetensors
    python tools/convert_checkpoint.py state DIR/unet/diffusion_pytorch_model.bin DIR/unet/diffusion_pytorch_model.safetensors
    python tools/convert_checkpoint.py guided-diffusion 256x256_diffusion_uncond.pt DIR
    python tools/convert_checkpoint.py mobi epoch=28.ckpt DIR

A pickle can run code when it is read. It is read here with `weights_only`, which builds tensors and plain containers and
refuses the rest; nothing else in Graft reads one at all. Nothing is fetched: download the file first, and check its digest.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from graft_common.checkpoint import save_weights
from graft_common.errors import InputError
from graft_common.files import one_line, read_bytes, typed

FEATURES = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}  # channels that LPIPS weighs, per level
TRUNK = "features."

Source = tyro.conf.Positional[Path]


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .bin or .ckpt file; a Lightning checkpoint's `state_dict` is looked into.

    Raises:
        InputError: no such file, a file with objects in it, or one without tensors.
    """
    read_bytes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:  # zip, pickle, end of file: whatever a file that is something else sets off
        raise InputError(
            f"{typed(path)}: cannot be read as tensors alone ({one_line(why)}); give the authors' file of weights"
        ) from why
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{typed(path)}: holds no tensors by name; give a file with a state dict")
    return tensors


def lpips(trunk: Source, out: Source, /, linear: Path | None = None) -> None:
    """torchvision's AlexNet or VGG16 under LPIPS' linear weights, for --lpips FILE.

    Args:
        trunk: torchvision's alexnet-owt-7be5be79.pth or vgg16-397923af.pth.
        out: file to write, ending in .safetensors.
        linear: the learned linear weights (alex.pth or vgg.pth of LPIPS 0.1); default those that torchmetrics installs.
    """
    features = {name: value for name, value in read_pickle(trunk).items() if name.startswith(TRUNK)}
    kind = _kind(features, trunk)
    linear = linear or _installed(kind)
    weighed = read_pickle(linear)
    wanted = {f"lin{i}.model.1.weight": (1, channels, 1, 1) for i, channels in enumerate(FEATURES[kind])}
    for name, shape in wanted.items():
        if name not in weighed or tuple(weighed[name].shape) != shape:
            found = tuple(weighed[name].shape) if name in weighed else "none"
            raise InputError(f"{typed(linear)}: {name} is {found}, {kind} needs {shape}; give LPIPS' {kind}.pth")
    _save(out, features | {name: weighed[name] for name in wanted}, {"model": "lpips", "network": kind})


def state(source: Source, out: Source, /) -> None:
    """Any state dict as it is, for folders in diffusers' or transformers' layout that hold .bin files only.

    Args:
        source: .bin, .pth or .ckpt file.
        out: file to write, ending in .safetensors.
    """
    _save(out, read_pickle(source), {"model": "state"})


def guided_diffusion(source: Source, out: Source, /) -> None:
    """The public 256 px unconditional ImageNet network of guided-diffusion, as a background model of diffusionmix.

    Args:
        source: 256x256_diffusion_uncond.pt (552,814,086 numbers).
        out: folder to write: background_unet, background_scheduler and mix.json, for `--background FOLDER`.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    from guided_diffusion import write_background

    state = read_pickle(source)
    count = write_background(state, out, typed(source))
    print(f"{typed(out)}: {len(state)} tensors, {count:,} numbers")


def mobi(source: Source, out: Source, /) -> None:
    """The MObI authors' checkpoint (car and pedestrian, 512 or 256 px), for `graft-mobi --weights FOLDER`.

    Args:
        source: the released .ckpt with UNet, both autoencoders, image encoder and box embedder.
        out: folder to write.
    """
    sys.path.insert(0, str(Path(__file__).parent))
    from mobi_checkpoint import write_mobi

    state = read_pickle(source)
    print(f"{typed(out)}: {len(state)} tensors, {write_mobi(state, out, typed(source)):,} numbers")


def _kind(features: Mapping[str, Tensor], path: Path) -> Literal["alex", "vgg"]:
    """By the shape of the first layer: 11 x 11 in AlexNet, 3 x 3 in VGG16."""
    first = tuple(features[f"{TRUNK}0.weight"].shape) if f"{TRUNK}0.weight" in features else None
    if first == (64, 3, 11, 11):
        return "alex"
    if first == (64, 3, 3, 3):
        return "vgg"
    found = "has none" if first is None else f"is {first}"
    raise InputError(f"{typed(path)}: {TRUNK}0.weight {found}; give torchvision's weights of AlexNet or VGG16")


def _installed(kind: str) -> Path:
    import torchmetrics.functional.image.lpips as theirs

    return Path(theirs.__file__).with_name("lpips_models") / f"{kind}.pth"


def _save(out: Path, tensors: Mapping[str, Tensor], config: dict[str, Any]) -> None:
    if out.suffix != ".safetensors":
        raise InputError(f"{typed(out)}: must end in .safetensors")
    save_weights(out, tensors, config)
    print(f"{typed(out)}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers")


VERBS: dict[str, Callable[..., None]] = {
    "lpips": lpips, "state": state, "guided-diffusion": guided_diffusion, "mobi": mobi,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Convert one file; 2 when it cannot be."""
    try:
        tyro.extras.subcommand_cli_from_dict(VERBS, args=argv, prog="convert_checkpoint", description=__doc__)
    except InputError as why:
        print(f"convert_checkpoint: {why}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
