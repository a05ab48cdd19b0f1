"""The verb `train`: fine-tune the UNet so that <lesion> looks at lesions (spec 2.4).

Pictures are encoded once, captions once; a step then costs one forward and backward of the UNet. The maps ride in the
network's own attention calls.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from didgen.config import TrainConfig
from didgen.denoise import checked_prediction
from didgen.images import read_lesion_mask, read_rgb
from didgen.losses import region_loss
from didgen.manifest import Row, read_manifest
from didgen.maps import map_grids
from didgen.prompts import count_seen
from didgen.tokens import add_placeholders, has_placeholders, positions
from didgen.weights import LORA, MARK, SEEN, TARGETS, add_lora, lora_state
from graft_common import bundle as bundles
from graft_common.bundle import Bundle
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import read_bytes, sha256, typed
from graft_common.hooks import CrossColumns, Where, record
from graft_common.noising import noised, target
from graft_common.pixels import resize, resize_mask
from graft_common.resume import check_same_run
from graft_common.training import LAST, FitConfig, fit, trim_log

CACHE, NOTE, STEPS = "latents.safetensors", "train.json", "steps.jsonl"
SIDES = {"left": "right", "right": "left"}
EVERY = 50  # steps between log lines


@dataclass(frozen=True, eq=False)
class Corpus:
    """A training set as the network sees it; everything on the CPU.

    Attributes:
        latents: (n, c, h, w) scaled posterior means.
        masks: (n, hc, wc) share of each cross-attention cell that is lesion.
        states: (prompts, L, D) text states of the different prompts; `which` (n,) names each picture's row.
        lesion, skin: (prompts,) positions of the placeholders.
        null: (L, D) states of the empty prompt.
    """

    latents: Float[Tensor, "n c h w"]
    masks: Float[Tensor, "n hc wc"]
    states: Float[Tensor, "p L D"]
    which: Int[Tensor, "n"]
    lesion: Int[Tensor, "p"]
    skin: Int[Tensor, "p"]
    null: Float[Tensor, "L D"]


def run_train(config: TrainConfig, command: list[str]) -> dict[str, Any]:
    """Fine-tune and write `out/bundle`; an interrupted run goes on with --resume, bit for bit on the same device.

    Raises:
        InputError: unusable rows, settings or weights; a checkpoint is there without --resume, or of another run.
    """
    config.check()
    device = pick_device(config.device)
    out = checked_out(config.out)
    if (out / LAST).exists() and not config.resume:
        raise InputError(f"--out {typed(config.out)}: holds a training run; pass --resume to go on or choose another folder")
    run = Run(command, config, "graft-didgen")
    rows = usable(read_manifest(config.manifest), config)
    run.read("manifest", config.manifest)
    run.digests["pictures"] = files_digest(rows)
    with run.stage("load"):
        base = bundles.load(config.weights, device.type)
        run.weights = base.weights()
        checked_prediction(base)
        add_placeholders(base.tokenizer, base.text_encoder, config.init)
    settings = same_run(config, run, out)
    with run.stage("encode"):
        corpus = encode_corpus(rows, base, config, out / CACHE)
    write_json(out / NOTE, settings)
    with run.stage("train"), progress("train", config.steps, quiet=config.json) as advance:
        fitted = train(base, corpus, config, out, advance)
    with run.stage("write"):
        write_bundle(base, config, out / "bundle", fitted)
        write_json(out / "bundle" / SEEN, count_seen([row.prompt or "" for row in rows]))
    run.outputs = [f"bundle/{p.relative_to(out / 'bundle')}" for p in sorted((out / "bundle").rglob("*")) if p.is_file()]
    run.measures = {"pictures": len(rows), "loss": round(fitted.loss, 6), "seconds": round(fitted.seconds, 1)}
    return run.write(out)


def same_run(config: TrainConfig, run: Run, out: Path) -> dict[str, str]:
    """What a resumed run must share with its beginning: settings, weights, and pictures to the byte.

    Raises:
        InputError: a checkpoint is there and was begun with something else.
    """
    free = ("out", "resume", "json", "device", "manifest", "weights")
    wanted = {k: str(v) for k, v in vars(config).items() if k not in free}
    wanted |= {"manifest": run.digests["manifest"] + run.digests["pictures"], "weights": run.weights["sha256"]}
    if (out / LAST).exists() and (out / NOTE).exists():
        check_same_run(wanted, out / NOTE, f"--out {typed(config.out)}")
    return wanted


def files_digest(rows: Sequence[Row]) -> str:
    """One sha256 over the bytes of all pictures and masks, in the order of the rows."""
    total = hashlib.sha256()
    for row in rows:
        for path in (row.image, row.mask):
            total.update(read_bytes(path) if path is not None else b"")
    return total.hexdigest()


def usable(rows: Sequence[Row], config: TrainConfig) -> list[Row]:
    """Training rows with a prompt, and with a mask where the region-aware loss needs one.

    Raises:
        InputError: none is left, or a row lacks what is needed.
    """
    chosen = [row for row in rows if row.split in ("train", None)]
    if not chosen:
        raise InputError(f"{typed(config.manifest)}: has no row of split train; run `graft-didgen prepare` first")
    for row in chosen:
        if not row.prompt:
            raise InputError(f"{typed(config.manifest)}: row {row.id} has no prompt; run `graft-didgen caption` first")
        if row.mask is None and config.alpha > 0:
            raise InputError(
                f"{typed(config.manifest)}: row {row.id} has no mask, which the region-aware loss needs; add it or give --alpha 0"
            )
    return chosen


def encode_corpus(rows: Sequence[Row], base: Bundle, config: TrainConfig, cache: Path) -> Corpus:
    """Pictures squeezed to the square working size -> latents; masks -> cells; captions -> states. Kept in `cache`."""
    size = config.size or base.size
    if size % base.factor:
        raise InputError(f"--size {size}: must be a multiple of {base.factor}")
    prompts = [prompt for row in rows for prompt in (row.prompt or "", mirrored(row.prompt))[: 1 + config.flips]]
    unique = list(dict.fromkeys(prompts))
    places = [positions(base.tokenizer, prompt) for prompt in unique]
    number = {prompt: i for i, prompt in enumerate(unique)}
    key = {
        "manifest": sha256(config.manifest), "pictures": files_digest(rows), "size": size, "flips": config.flips,
        "base": bundles.digest(base.folder),
    }  # fmt: skip
    if cache.exists() and read_config(cache) == key:
        stored = load_weights(cache)
    else:
        stored = _encode_pictures(rows, base, size, config)
        save_weights(cache, stored, key)
    with torch.no_grad():
        states = torch.cat([bundles.text_states(base, unique[i : i + 64]).cpu() for i in range(0, len(unique), 64)])
    return Corpus(
        stored["latents"], stored["masks"], states, torch.tensor([number[p] for p in prompts]),
        torch.tensor([p.lesion for p in places]), torch.tensor([p.skin for p in places]), bundles.text_states(base, [""])[0].cpu(),
    )  # fmt: skip


def mirrored(prompt: str | None) -> str:
    """The prompt of the mirror image: words for sides change places."""
    return re.sub(r"\b(left|right)\b", lambda side: SIDES[side[0]], prompt or "")


def _encode_pictures(rows: Sequence[Row], base: Bundle, size: int, config: TrainConfig) -> dict[str, Tensor]:
    latent = (size // base.factor,) * 2
    grid = map_grids(base.unet, latent).cross
    latents, masks = [], []
    with progress("encode", len(rows), quiet=config.json) as advance:
        for row in rows:
            stored = read_rgb(row.image)
            picture = resize(stored.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, (size, size))
            mask = np.zeros((size, size), np.float32)
            if row.mask is not None:
                whole = read_lesion_mask(row.mask, stored.shape[:2])
                mask = resize_mask(whole, (size, size)).astype(np.float32)
            for turn in range(1 + config.flips):
                pixels = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1] if turn else picture))[None]
                soft = torch.from_numpy(np.ascontiguousarray(mask[..., ::-1] if turn else mask))[None, None]
                latents.append(bundles.encode(base, pixels)[0].cpu())
                masks.append(F.interpolate(soft, size=grid, mode="area")[0, 0])
            advance(1)
    return {"latents": torch.stack(latents), "masks": torch.stack(masks)}


def train(base: Bundle, corpus: Corpus, config: TrainConfig, out: Path, advance: Any = lambda n: None) -> Any:
    """Train the UNet of `base` in place (its LoRA adapter with --lora-rank); returns the loop's `Fitted`."""
    unet, abar = base.unet, base.alphas_cumprod.float()
    torch.manual_seed(config.seed)
    if config.lora_rank:
        add_lora(unet, config.lora_rank)
    else:
        unet.requires_grad_(True)
    grid = map_grids(unet, (corpus.latents.shape[2], corpus.latents.shape[3])).cross
    trim_log(out / STEPS)
    tokens = tuple(sorted({0, *corpus.lesion.tolist(), *corpus.skin.tolist()}))
    column = {token: i for i, token in enumerate(tokens)}
    mass: dict[str, float] = {}
    weight = None if config.snr_gamma is None else snr_weights(abar, base.prediction_type, config.snr_gamma)

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        device = next(module.parameters()).device
        pick = torch.randint(len(corpus.latents), (config.batch_size,), generator=gen)
        t = torch.randint(len(abar), (config.batch_size,), generator=gen)
        z = corpus.latents[pick]
        eps = torch.randn(z.shape, generator=gen)
        words = torch.rand(config.batch_size, generator=gen) >= config.drop
        if config.noise_offset:
            eps = eps + config.noise_offset * torch.randn((*z.shape[:2], 1, 1), generator=gen)
        level = abar[t].view(-1, 1, 1, 1)
        x, wanted = noised(z, eps, level), target(z, eps, level, base.prediction_type)
        prompt = corpus.which[pick]
        context = torch.where(words.view(-1, 1, 1), corpus.states[prompt], corpus.null)
        plain = getattr(module, "module", module)
        want = CrossColumns(tokens, Where(grid=grid))
        watching = record(plain, want, grad=True, mode="ride") if config.alpha else nullcontext()
        with watching as seen:
            output = module(x.to(device), t.to(device), encoder_hidden_states=context.to(device)).sample
        if weight is None:
            total = F.mse_loss(output.float(), wanted.to(device))
        else:
            wrong = F.mse_loss(output.float(), wanted.to(device), reduction="none").mean(dim=(1, 2, 3))
            total = (weight[t].to(device) * wrong).mean()
        if seen is None:
            return total
        maps = seen.mean(0).float()
        rows = torch.arange(len(maps))
        ours = torch.tensor([[column[int(corpus.lesion[p])], column[int(corpus.skin[p])]] for p in prompt])
        pair = maps[rows[:, None], ours]
        each = region_loss(pair, corpus.masks[pick].to(device), config.normalise)
        mass.update(placeholders=float(pair.detach().sum(1).mean()), start=float(maps.detach()[:, 0].mean()))
        told = words.to(device)
        return total + config.alpha * (each * told).sum() / told.sum().clamp(min=1)

    def tick(step: int, value: float, rate: float) -> None:
        advance(1)
        if step % EVERY == 0:
            line = {"step": step, "loss": round(value, 5), "rate": rate} | {k: round(v, 4) for k, v in mass.items()}
            with (out / STEPS).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    gpu = pick_device(config.device).type == "cuda"
    precision = ("bf16" if gpu else "no") if config.precision == "auto" else config.precision
    plan = FitConfig(
        steps=config.steps, learning_rate=config.learning_rate, warmup=config.warmup, decay=config.decay, weight_decay=0.01,
        betas=(0.9, 0.999), ema=config.ema, clip=1.0, seed=config.seed, mixed_precision=precision, cpu=config.device == "cpu",
    )  # fmt: skip
    fitted = fit(unet, loss, plan, out, on_step=tick)
    unet.load_state_dict(unet.state_dict() | fitted.average)
    unet.eval().requires_grad_(False)
    return fitted


def snr_weights(abar: Tensor, kind: str, gamma: float) -> Tensor:
    """(T,) min-SNR weights of a loss on noise or velocity (Hang et al. 2023, section 3.4)."""
    snr = abar / (1 - abar)
    return snr.clamp(max=gamma) / (snr if kind == "epsilon" else snr + 1)


def write_bundle(base: Bundle, config: TrainConfig, folder: Path, fitted: Any) -> None:
    """What --weights takes: LoRA beside the name of its base, or a whole bundle that diffusers' own pipeline loads.

    A base that is a local folder has no name that another machine could look up, so LoRA is merged into a whole bundle then.
    """
    made = {
        "steps": fitted.step, "seed": config.seed, "alpha": config.alpha, "learning_rate": config.learning_rate,
        "base_sha256": bundles.digest(base.folder),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    named = config.weights in bundles.shipped() or not Path(config.weights).is_dir()
    if config.lora_rank:
        tensors = {k: v.detach().half().cpu().contiguous() for k, v in lora_state(base.unet).items()}
        save_weights(folder / LORA, tensors, {"rank": config.lora_rank, "targets": TARGETS, **made})
        if not named:
            base.unet.fuse_lora(adapter_names=["didgen"])
            base.unet.unload_lora()
    if config.lora_rank and named:
        mark = {
            "schema": 1, "base": config.weights, "rank": config.lora_rank, "init": config.init, **made,
        }  # fmt: skip
        write_json(folder / MARK, mark)
        return
    from diffusers import DDIMScheduler

    (folder / MARK).unlink(missing_ok=True)  # of a LoRA run before: it would be read first
    bundles.save(
        folder, unet=base.unet, vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer,
        scheduler=DDIMScheduler.from_config(base.schedule),
    )  # fmt: skip
    assert has_placeholders(base.tokenizer)
    write_json(folder / "training.json", made)
