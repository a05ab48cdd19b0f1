"""Grade a tiny-sd bundle on held-out seeds: the VAE in dB, the text-to-image attributes, Frechet distance, a sample grid."""

import json
from pathlib import Path

import numpy as np
import pydicom
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from scipy.linalg import sqrtm
from skimage.color import rgb2lab
from skimage.transform import resize

from graft_common import phantoms
from graft_common.bundle import Bundle, load
from graft_common.metrics.judges import load_judges
from tiny import judge as j
from tiny import vae as v
from tiny.data import HELD_OUT, HELD_PHOTOS, Drawn, draw_all, jobs, photograph

console = Console(stderr=True)
COLOURS = {"red": (200, 30, 35), "green": (40, 160, 50), "blue": (30, 80, 210), "yellow": (240, 205, 40)}


def held_out_crops(size: int, count: int = 64, seed: int = 5) -> dict[str, np.ndarray]:
    """`count` random crops of size x size of each picture kept out of training; smaller pictures are resized whole."""
    pictures = {name: photograph(name) for name in HELD_PHOTOS}
    for name in ("CT_small.dcm", "MR_small.dcm"):
        ds = pydicom.dcmread(pydicom.data.get_testdata_file(name))
        grey = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(ds.pixel_array, ds), ds).astype(
            np.float64
        )
        low, high = np.percentile(grey, [0.5, 99.5])
        grey = ((grey - low) / (high - low)).clip(0, 1) * 255
        pictures[name] = np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)
    rng = np.random.default_rng(seed)
    out = {}
    for name, picture in pictures.items():
        if min(picture.shape[:2]) < size:
            picture = (resize(picture, (size, size), anti_aliasing=True) * 255).round().astype(np.uint8)
        corners = [[int(rng.integers(n - size + 1)) for n in picture.shape[:2]] for _ in range(count)]
        out[name] = np.stack([picture[y : y + size, x : x + size] for y, x in corners])
    return out


def grade_vae(vae, held: Drawn, train_images: np.ndarray) -> dict:
    """Mean PSNR by world and by photograph, beside the linear 4-channel patch code fitted on the training phantoms."""
    worlds = np.array([r["world"] for r in held.rows])
    sets = {w: held.images[worlds == w] for w in phantoms.WORLDS} | held_out_crops(held.images.shape[1])
    table = {}
    for name, images in sets.items():
        back = v.decode(vae, v.encode(vae, images))
        plain = v.patch_code(train_images[:4000], images)
        table[name] = {
            "psnr": round(float(v.psnr(back, images).mean()), 2), "linear": round(float(v.psnr(plain, images).mean()), 2),
            "n": len(images),
        }  # fmt: skip
    photos = [table[n]["psnr"] for n in sets if n not in phantoms.WORLDS]
    means = {
        "phantoms": float(np.mean([table[w]["psnr"] for w in phantoms.WORLDS])), "photographs": float(np.mean(photos)),
        "worst photograph": float(min(photos)),
    }  # fmt: skip
    return {"by set": table, "means": {k: round(x, 2) for k, x in means.items()}}


def measured_colour(image: np.ndarray) -> str:
    """The named colour nearest in CIELAB to the median of the most saturated fifth of the picture."""
    lab = rgb2lab(image)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    spot = lab[chroma >= np.quantile(chroma, 0.85)]
    middle = np.median(spot, axis=0)
    return min(
        COLOURS, key=lambda c: np.hypot(*(rgb2lab(np.array(COLOURS[c], np.uint8)[None, None])[0, 0, 1:] - middle[1:]))
    )


@torch.no_grad()
def generate(
    bundle: Bundle, captions: list[str], steps: int = 15, guidance: float = 3.0, seed: int = HELD_OUT
) -> np.ndarray:
    """(n, S, S, 3) uint8 by diffusers' own pipeline and scheduler, as a user would."""
    pipeline = StableDiffusionPipeline.from_pretrained(bundle.folder)
    pipeline.set_progress_bar_config(disable=True)
    out = []
    for i in range(0, len(captions), 50):
        gens = [torch.Generator().manual_seed(seed + i + k) for k in range(len(captions[i : i + 50]))]
        images = pipeline(
            captions[i : i + 50], num_inference_steps=steps, guidance_scale=guidance, generator=gens, output_type="np"
        ).images
        out.append((images * 255).round().astype(np.uint8))
        console.print(f"generated {i + len(gens)} of {len(captions)}")
    return np.concatenate(out)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two feature sets (n, d)."""
    root = sqrtm(np.cov(a.T) @ np.cov(b.T))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real))


def agreement(classifier, images: np.ndarray, rows: list[dict]) -> dict[str, dict]:
    """Share of wanted attributes that the classifier reads, by head, and derived yes/no questions; n beside it."""
    truth, said = j.labels(rows, classifier.heads), j.predict(classifier, images)
    out = {}
    for head in classifier.heads:
        asked = truth[head] >= 0
        out[head] = {"share": round(float((said[head] == truth[head])[asked].float().mean()), 3), "n": int(asked.sum())}
    for head, name in (("brain.tumor", "brain.tumor present"), ("lung_ct.nodule", "lung_ct.nodule present")):
        asked, none = truth[head] >= 0, classifier.heads[head].index("none")
        same = (said[head] == none) == (truth[head] == none)
        out[name] = {"share": round(float(same[asked].float().mean()), 3), "n": int(asked.sum())}
        sided = asked & (truth[head] != none)
        side = (said[head] == truth[head])[sided & (said[head] != none)]
        out[f"{head} side"] = {"share": round(float(side.float().mean()), 3), "n": len(side)}
    colour = [
        (measured_colour(i), r["attributes"]["color"])
        for i, r in zip(images, rows, strict=True)
        if r["world"] == "objects"
    ]
    out["objects.color measured"] = {"share": round(float(np.mean([a == b for a, b in colour])), 3), "n": len(colour)}
    return out


def grade(
    folder: Path, cache: Path, train_images: np.ndarray, per_world: int = 100, judges_folder: Path | None = None
) -> dict:
    """Everything, as one JSON-able table; writes `cache/samples.png`."""
    from PIL import Image

    bundle = load(str(folder))
    judges = load_judges(judges_folder)
    equal = dict.fromkeys(phantoms.WORLDS, 1)
    held = draw_all(cache / "held", bundle.size, jobs(200 * len(equal), HELD_OUT, equal))
    result = {"judge on real phantoms": j.accuracy(judges.classifier, held.images, held.rows)}
    result["vae"] = grade_vae(bundle.vae, held, train_images)
    console.print(json.dumps(result["vae"]["means"]))
    worlds = np.array([r["world"] for r in held.rows])
    pick = np.concatenate([np.flatnonzero(worlds == w)[:per_world] for w in phantoms.WORLDS])
    images, rows = held.images[pick], [held.rows[i] for i in pick]
    back = v.decode(bundle.vae, v.encode(bundle.vae, images))
    drawn = generate(bundle, [r["caption"] for r in rows])
    np.save(cache / "samples.npy", drawn)
    result["ceiling (VAE reconstructions)"] = agreement(judges.classifier, back, rows)
    result["text to image"] = agreement(judges.classifier, drawn, rows)
    # Other pictures than those that were reconstructed: what a code does to its own inputs says nothing of two sets' distance.
    others = held.images[np.setdiff1d(np.arange(len(worlds)), pick)]
    with torch.no_grad():
        real, same, recon, made = (
            torch.cat([judges.classifier.embed(v.to_model(x[i : i + 128]).contiguous()) for i in range(0, len(x), 128)])
            .double()
            .numpy()
            for x in (others, images, back, drawn)
        )
    result["frechet"] = {
        "real": round(frechet(real, same), 3), "reconstructions": round(frechet(real, recon), 3),
        "samples": round(frechet(real, made), 3), "n": len(drawn),
    }  # fmt: skip
    both = np.concatenate([real, same])  # holds the originals of the reconstructions: a yardstick that no sampler can meet
    result["frechet to all"] = {"reconstructions": round(frechet(both, recon), 3), "samples": round(frechet(both, made), 3)}
    sheet = [
        np.concatenate(list(drawn[np.array([r["world"] for r in rows]) == w][:12]), axis=1) for w in phantoms.WORLDS
    ]
    Image.fromarray(np.concatenate(sheet)).save(cache / "samples.png", optimize=True)
    return result
