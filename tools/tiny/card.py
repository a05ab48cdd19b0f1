"""The model card of tiny-sd, written from what `--only grade` measured."""

FLOORS = {
    "world": 0.92, "dermoscopy.color": 0.93, "dermoscopy.skin": 0.93, "textures.texture": 0.93, "chest_xray.heart": 0.93,
    "chest_xray.effusion": 0.93, "ultrasound.lesion": 0.93, "brain.tumor present": 0.90, "textures.defect": 0.90,
    "lung_ct.nodule present": 0.75, "mammogram.finding": 0.60, "objects.color measured": 0.80, "brain.tumor side": None,
    "lung_ct.nodule side": None, "objects.shape": None, "objects.material": None, "mammogram.side": None,
    "mammogram.density": None, "dermoscopy.artifact": None,
}  # fmt: skip
VAE_FLOORS = {"ultrasound": 19.0}

HEAD = """# tiny-sd

A very small Stable Diffusion (CLIP tokenizer and text encoder, KL VAE of factor 4, UNet with attention at both levels) trained
on procedural phantoms of eight worlds, 64 px. It stands where Stable Diffusion stands, so that every command runs offline;
it knows phantoms only. **What it draws is synthetic and not for diagnosis.**

| | |
|---|---|
| parameters | UNet 3.51 M, VAE 0.68 M, text encoder 0.80 M; stored in float16 |
| schedule | scaled-linear 0.00085 to 0.012, 1000 steps, epsilon prediction |
| data | 42,000 phantoms drawn by `graft_common.phantoms` (training seeds below 10,000,000); the VAE also saw jittered crops of the photographs that scikit-image installs |
| steps | first run: VAE 1,500 and 350 more of its decoder, text encoder 400 (batch 64, to name the caption's attributes; then frozen), UNet 1,900. Second run, from these weights: VAE 2,200, UNet 3,600; batch 32, bfloat16, averaged weights |
| time | about 100 minutes for the first run and 75 for the second, wall time on two shared CPU cores |
| seed | 0 for every stage |
| made by | `tools/train_tiny.py tiny-sd --start WEIGHTS_OF_THE_FIRST_RUN --only draw vae text unet assemble --vae-steps 2200 --unet-steps 3600 --compile --unet-precision bf16` (the first run's weights stand in this repository's history) |
| noise | the mean of each channel's noise varies by 0.15 more than plain noise while training, and times with little noise weigh less (min-SNR, 5); the first run had neither, and 0.43 of its skin tones were right |
| null words | a tenth of the samples saw the empty caption, one in twenty-five the exceptional prompt |

Every number below is printed by `uv run --all-packages python tools/train_tiny.py tiny-sd --only grade`: held-out seeds,
guidance 3, 15 steps of DDIM, read by the classifier in `graft_common/weights/judges` ({judge:.3f} right on real phantoms' worlds).
The ceiling is the same reading on the VAE's reconstructions of real phantoms. A floor that is not held says so.
"""


def render(result: dict) -> str:
    """MODEL_CARD.md from `evaluate.grade`'s table."""
    lines = [HEAD.format(judge=result["judge on real phantoms"]["world"])]
    lines += ["## Reconstruction, PSNR in dB", "", "| pictures | VAE | linear 4-channel patch code | floor | n |", "|---|---|---|---|---|"]
    photos = ("moon", "cell", "microaneurysms", "motorcycle_right", "CT_small.dcm", "MR_small.dcm")
    for name, row in result["vae"]["by set"].items():
        floor = 22.0 if name in photos else VAE_FLOORS.get(name, 24.0)
        lines.append(f"| {name} | {row['psnr']:.2f}{_missed(row['psnr'], floor)} | {row['linear']:.2f} | {floor:.0f} | {row['n']} |")
    for name, floor in (("phantoms", 28.0), ("photographs", 28.0)):
        value = result["vae"]["means"][name]
        lines.append(f"| mean over {name} | {value:.2f}{_missed(value, floor)} | | {floor:.0f} | |")
    lines += ["", "## Text to image, share of wanted attributes", "", "| attribute | samples | ceiling | floor | n |", "|---|---|---|---|---|"]
    ceiling, drawn = result["ceiling (VAE reconstructions)"], result["text to image"]
    for name, floor in FLOORS.items():
        share = drawn[name]["share"]
        shown = "reported" if floor is None else f"{floor:.2f}"
        lines.append(f"| {name} | {share:.3f}{_missed(share, floor)} | {ceiling[name]['share']:.3f} | {shown} | {drawn[name]['n']} |")
    f = result["frechet"]
    ratio = f["samples"] / f["reconstructions"]
    whole = result["frechet to all"]
    lines += [
        "", "![Twelve held-out prompts a world](samples.png)", "",
        f"Frechet distance in the judge's features to {f['n']} other held-out phantoms: phantoms {f['real']:.2f}, "
        f"their reconstructions {f['reconstructions']:.2f}, samples {f['samples']:.2f}, ratio of the last two {ratio:.2f}"
        f"{_missed(-ratio, -2.0)} (floor: at most 2). Against a set that holds the originals of the reconstructions, as the first "
        f"version of this card had it, the two are {whole['samples']:.2f} and {whole['reconstructions']:.2f}, "
        f"ratio {whole['samples'] / whole['reconstructions']:.2f}; pictures other than those originals cannot come near that.", "",
        "Not for other pictures: a photograph goes through the VAE well enough, but the UNet has never seen one.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _missed(value: float, floor: float | None) -> str:
    return "" if floor is None or value >= floor else " (missed)"
