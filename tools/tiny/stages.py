"""The stages of `train_tiny.py tiny-sd`, each reading and writing files under the run's folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from graft_common import bundle
from graft_common.bundle_layout import plain_tokenizer
from graft_common.checkpoint import save_weights
from graft_common.inversion import exceptional_prompt
from graft_common.training import FitConfig
from tiny import data

if TYPE_CHECKING:
    from train_tiny import TrainConfig

console = Console(stderr=True)


def ticker(name: str, every: int = 50):
    """A line every `every` steps: what a log file can hold."""

    def tick(step: int, loss: float, rate: float) -> None:
        if step % every == 0 or step < 5:
            console.print(f"{name} step {step} loss {loss:.4f} rate {rate:.2e}", highlight=False)

    return tick


def draw(config: TrainConfig) -> data.Drawn:
    return data.draw_all(config.out / "phantoms", config.size, data.jobs(config.pictures, 0))


def started(config: TrainConfig) -> bundle.Bundle | None:
    """The bundle that training goes on from, if one is named."""
    return bundle.load(config.start) if config.start else None


def vae(config: TrainConfig) -> None:
    from tiny import vae as v

    fit = FitConfig(
        steps=config.vae_steps, learning_rate=2e-3, ema=0.998, decay=0.6, weight_decay=1e-4, seed=config.seed + 11,
        mixed_precision=config.precision,
    )  # fmt: skip
    begin = started(config)
    model, fitted = v.train(
        draw(config), config.out / "vae", fit, begin and begin.vae, config.batch, compiled=config.compile,
        on_step=ticker("vae"),
    )  # fmt: skip
    if fitted.step == config.vae_steps:
        model.save_pretrained(config.out / "vae")


def load_vae(config: TrainConfig) -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(config.out / "vae")
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def text(config: TrainConfig) -> None:
    from tiny import text as t
    from tiny import tokenizer as tok

    folder = config.out / "text"
    begin = started(config)
    if begin:  # the text states stay as they are, so that a UNet that goes on finds the words it knows
        plain_tokenizer_folder(begin.tokenizer, folder / "tokenizer")
        begin.text_encoder.save_pretrained(folder / "encoder")
        return
    tokenizer = tok.build(t.required_words())
    plain_tokenizer_folder(tokenizer, folder / "tokenizer")
    fit = FitConfig(steps=config.text_steps, learning_rate=1e-3, ema=0.99, decay=0.4, seed=config.seed + 22)
    encoder, fitted, right = t.train(tokenizer, draw(config).rows, folder, fit, on_step=ticker("text"))
    console.print("captions named right:", {k: round(v, 3) for k, v in right.items()})
    if fitted.step == config.text_steps:
        encoder.save_pretrained(folder / "encoder")


def plain_tokenizer_folder(tokenizer: CLIPTokenizer, folder) -> None:
    tokenizer.save_pretrained(folder)
    plain_tokenizer(tokenizer, folder)


def load_text(config: TrainConfig) -> tuple[CLIPTextModel, CLIPTokenizer]:
    encoder = CLIPTextModel.from_pretrained(config.out / "text" / "encoder").eval().requires_grad_(False)
    return encoder, CLIPTokenizer.from_pretrained(config.out / "text" / "tokenizer")


def latents(config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(scaled latents, focus weights, scale), computed once with the finished VAE."""
    path = config.out / "latents.safetensors"
    drawn = draw(config)
    if not path.exists():
        from tiny import vae as v

        z = v.encode(load_vae(config), drawn.images)
        cells = torch.from_numpy(drawn.focus[:].astype("float32")).unsqueeze(1)
        focus = F.avg_pool2d(cells, config.size // z.shape[-1]).squeeze(1)
        # Small findings weigh more: each picture's focus adds the same mass, at most five times a cell's own weight.
        share = focus.mean(dim=(1, 2), keepdim=True)
        focus = focus * (0.25 / share.clamp(min=0.05)).clamp(max=5.0)
        save_file({"z": z, "focus": focus.contiguous(), "scale": (1 / z.std()).reshape(1)}, path)
    stored = load_file(path)
    scale = float(stored["scale"])
    return stored["z"] * scale, stored["focus"], scale


def unet(config: TrainConfig) -> None:
    from tiny import text as t
    from tiny import unet as u

    encoder, tokenizer = load_text(config)
    z, focus, _ = latents(config)
    rows = draw(config).rows
    unique = list(dict.fromkeys(r["caption"] for r in rows))
    number = {c: i for i, c in enumerate(unique)}
    which = torch.tensor([number[r["caption"]] for r in rows])
    texts = t.states(encoder, tokenizer, unique)
    null = t.states(encoder, tokenizer, [""])[0]
    exceptional = exceptional_prompt(encoder, tokenizer)[0]
    fit = FitConfig(
        steps=config.unet_steps, learning_rate=8e-4, ema=0.999, decay=0.4, warmup=150, seed=config.seed + 33,
        mixed_precision=config.unet_precision,
    )  # fmt: skip
    begin = started(config)
    model, fitted = u.train(
        z, focus, texts, which, null, exceptional, config.out / "unet", fit, config.batch, begin and begin.unet,
        compiled=config.compile, on_step=ticker("unet"),
    )  # fmt: skip
    model.save_pretrained(config.out / "unet")
    console.print(f"unet at step {fitted.step}, loss {fitted.loss:.4f}")


def judges(config: TrainConfig) -> None:
    from tiny import judge as j

    _, tokenizer = load_text(config)
    drawn, folder = draw(config), config.out / "judges"
    fit = FitConfig(steps=config.judge_steps, learning_rate=2e-3, ema=0.995, decay=0.5, seed=config.seed + 44)
    classifier, _ = j.train_classifier(drawn, folder / "classifier", fit, on_step=ticker("classifier"))
    network = {"heads": classifier.heads, "widths": [24, 48, 80, 112]}
    half = {k: v.half() for k, v in classifier.state_dict().items()}
    save_weights(folder / "classifier.safetensors", half, {"network": network, "fit": fit.__dict__})
    fit = FitConfig(steps=config.judge_steps, learning_rate=2e-3, ema=0.995, decay=0.5, seed=config.seed + 55)
    pair, _ = j.train_pair(drawn, tokenizer, folder / "pair", fit, on_step=ticker("pair"))
    half = {k: v.half() for k, v in pair.state_dict().items()}
    save_weights(folder / "pair.safetensors", half, {"network": {"vocabulary": len(tokenizer)}, "fit": fit.__dict__})
    plain_tokenizer_folder(tokenizer, folder / "tokenizer")


def decoder(config: TrainConfig) -> None:
    from tiny import vae as v

    fit = FitConfig(
        steps=config.decoder_steps, learning_rate=1e-3, ema=0.998, decay=0.6, weight_decay=1e-4, seed=config.seed + 66,
        mixed_precision=config.precision,
    )  # fmt: skip
    model, fitted = v.train(
        draw(config), config.out / "decoder", fit, load_vae(config), config.batch, frozen_code=True,
        compiled=config.compile, on_step=ticker("decoder"),
    )  # fmt: skip
    if fitted.step == config.decoder_steps:
        model.save_pretrained(config.out / "decoder")


def assemble(config: TrainConfig) -> None:
    """Put the parts together as a half-precision bundle under `out/bundle`."""
    from tiny import unet as u

    encoder, tokenizer = load_text(config)
    done = config.out / "decoder" / "config.json"
    vae_ = AutoencoderKL.from_pretrained(config.out / ("decoder" if done.exists() else "vae"))
    _, _, scale = latents(config)
    vae_.register_to_config(scaling_factor=scale)
    unet_ = type(u.make()).from_pretrained(config.out / "unet")
    bundle.save(
        config.out / "bundle", unet=unet_, vae=vae_, text_encoder=encoder, tokenizer=tokenizer,
        scheduler=DDIMScheduler(**u.SCHEDULE),
    )  # fmt: skip
    console.print(json.dumps({"bundle": str(config.out / "bundle"), "scale": scale}))


def grade(config: TrainConfig) -> None:
    """What the model card states about the shipped weights: printed; `grade.json`, `MODEL_CARD.md`, `grade/samples.png`."""
    from graft_common.bundle import shipped
    from tiny import card, evaluate

    few = data.draw_all(config.out / "grade" / "train", config.size, data.jobs(4000, 0), workers=config.threads)
    result = evaluate.grade(shipped()[config.name], config.out / "grade", few.images, config.per_world)
    text = json.dumps(result, indent=1)
    (config.out / "grade.json").write_text(text + "\n", encoding="utf-8")
    (config.out / "MODEL_CARD.md").write_text(card.render(result), encoding="utf-8")
    print(text)
