"""Weights: what is saved, diffusers' own pipeline loads and samples alike; look-up, damage, factors, prompts, digests."""

import json
import shutil
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from graft_common import bundle
from graft_common.errors import InputError
from graft_common.provenance import folder_digest

LETTERS = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]


def save(folder, **changes):
    """A random bundle of a few thousand parameters: 16 px, factor 2, two levels."""
    torch.manual_seed(0)
    tokens = [*LETTERS, *(c + "</w>" for c in LETTERS), "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[("a", "b</w>")], model_max_length=77)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, **changes,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            projection_dim=8, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    bundle.save(folder, unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "toy")


@pytest.fixture(scope="module")
def parts(folder):
    return bundle.load(str(folder))


def sampled(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline(
        ["ab a tumour", "x"], num_inference_steps=3, guidance_scale=4.0, generator=generator, output_type="np"
    ).images  # fmt: skip


def test_diffusers_own_pipeline_samples_bit_equal(folder, parts):
    """Loaded without arguments, against a pipeline made of the parts that `load` returns.

    `load` freezes its parameters, and torch may pick another CPU kernel for those that ask for gradients (also inside
    no_grad): equal bytes hold for equal `requires_grad`, 1e-6 in any case.
    """
    ours = StableDiffusionPipeline(
        unet=parts.unet, vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer,
        scheduler=DDIMScheduler.from_config(parts.schedule), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    theirs = StableDiffusionPipeline.from_pretrained(folder)
    assert {p.dtype for m in (theirs.unet, theirs.vae, theirs.text_encoder) for p in m.parameters()} == {torch.float32}
    image = sampled(ours)
    assert image.shape == (2, 16, 16, 3) and image.std() > 0
    assert np.abs(image - sampled(theirs)).max() < 1e-6
    for part in (theirs.unet, theirs.vae, theirs.text_encoder):
        part.requires_grad_(False)
    assert np.array_equal(image, sampled(theirs))


def test_stored_in_half_precision_in_the_public_files(folder):
    for path in folder.glob("*/*.safetensors"):
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
    } == names  # fmt: skip
    assert json.loads((folder / "text_encoder/config.json").read_text())["dtype"] == "float32"


def test_what_is_read_from_the_bundle(parts):
    assert (parts.factor, parts.channels, parts.size, parts.prediction_type) == (2, 4, 16, "epsilon")
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(parts.alphas_cumprod.numpy(), np.cumprod(1 - beta), rtol=1e-4)
    assert parts.alphas_cumprod.dtype == torch.float64 and parts.name == "toy"
    assert not any(p.requires_grad for m in (parts.unet, parts.vae, parts.text_encoder) for p in m.parameters())
    assert not (parts.unet.training or parts.vae.training or parts.text_encoder.training)


def test_precision_is_the_networks_and_never_the_vaes(folder):
    half = bundle.load(str(folder), dtype=torch.bfloat16)
    assert (half.dtype, half.vae.dtype, half.text_encoder.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)


def test_encode_and_decode_are_the_pipelines_factors(tmp_path, parts):
    shifted = bundle.load(str(save(tmp_path / "s", scaling_factor=0.7, shift_factor=0.3)))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    for one, scale, shift in ((parts, 0.18215, 0.0), (shifted, 0.7, 0.3)):
        with torch.no_grad():
            posterior = one.vae.encode(x).latent_dist
            z = bundle.encode(one, x)
            torch.testing.assert_close(z, (posterior.mean - shift) * scale)
            drawn = bundle.encode(one, x, torch.Generator().manual_seed(1))
            eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(drawn, (posterior.mean + posterior.std * eps - shift) * scale)
            torch.testing.assert_close(bundle.decode(one, z), one.vae.decode(z / scale + shift).sample.clamp(-1, 1))
    assert float(bundle.decode(parts, 1e4 * z).abs().max()) <= 1


def test_text_states_are_the_pipelines(folder, parts):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    want = pipeline.encode_prompt("ab a tumour", "cpu", 1, False)[0]
    got = bundle.text_states(parts, ["ab a tumour"])
    assert got.shape == (1, 77, 8) and torch.equal(got, want)
    torch.testing.assert_close(bundle.text_states(parts, ["x", "ab a tumour"])[1:], want)


def test_a_prompt_that_does_not_fit_is_refused(parts):
    assert bundle.text_states(parts, [" ".join(["ab"] * 75)]).shape == (1, 77, 8)
    words = " ".join(["ab"] * 76)
    with pytest.raises(InputError, match="has 78 tokens with begin and end, 77 fit") as why:
        bundle.text_states(parts, ["ab", words])
    assert words in str(why.value)


def test_look_up_order(folder, tmp_path, monkeypatch):
    """A shipped name first, then a folder, then (only with a slash) a hub id; nothing else is fetched."""
    shelf = tmp_path / "shelf"
    monkeypatch.setattr(bundle, "shipped", lambda: {"toy": shelf / "toy", "tiny-sd": shelf / "tiny-sd"})
    fetched = []
    monkeypatch.setattr(bundle, "_fetch", lambda hub_id, files: fetched.append((hub_id, files)) or tmp_path)
    monkeypatch.chdir(folder.parent)
    assert bundle.find("toy") == ("toy", shelf / "toy")  # though a folder of that name is here
    assert bundle.find("./toy")[1].resolve() == folder and bundle.find(str(folder)) == ("toy", folder)
    assert bundle.find("some/model") == ("some/model", tmp_path) and fetched == [("some/model", bundle.FILES)]
    assert bundle.find("some/model", ("x/*",))[1] == tmp_path and fetched[1:] == [("some/model", ("x/*",))]
    for bad in ("tiny-sdd", "", "/no/such/folder", "./no/such", "~/no/such"):
        with pytest.raises(InputError) as why:
            bundle.find(bad)
        assert f"--weights {bad}" in str(why.value)
    for bad in ("tiny-sdd", "/no/such/folder"):
        with pytest.raises(InputError, match="toy, tiny-sd"):
            bundle.find(bad)
    assert len(fetched) == 2
    with pytest.raises(InputError, match=r"model_index\.json"):
        bundle.find(str(tmp_path))


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch):
    """No network in the tests: the hub client's failure becomes ours."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="--weights no-such-owner/no-such-model: could not be fetched") as why:
        bundle.find("no-such-owner/no-such-model")
    assert "\n" not in str(why.value)


DAMAGE = {
    "no unet": lambda f: shutil.rmtree(f / "unet"),
    "no text encoder": lambda f: shutil.rmtree(f / "text_encoder"),
    "no merges": lambda f: (f / "tokenizer/merges.txt").unlink(),
    "no scheduler": lambda f: (f / "scheduler/scheduler_config.json").unlink(),
    "scheduler is no JSON": lambda f: (f / "scheduler/scheduler_config.json").write_text("{"),
    "scheduler is a list": lambda f: (f / "scheduler/scheduler_config.json").write_text("[]"),
    "scheduler of another world": lambda f: (f / "scheduler/scheduler_config.json").write_text(
        '{"beta_schedule": "new"}'
    ),
    "scheduler is empty": lambda f: (f / "scheduler/scheduler_config.json").write_text("{}"),
    "unet cut short": lambda f: cut(f / "unet/diffusion_pytorch_model.safetensors"),
    "vae cut short": lambda f: cut(f / "vae/diffusion_pytorch_model.safetensors"),
    "text cut short": lambda f: cut(f / "text_encoder/model.safetensors"),
    "unet is a web page": lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_text("<html>" * 99),
    "config is empty": lambda f: (f / "vae/config.json").write_text(""),
    "vocabulary is no JSON": lambda f: (f / "tokenizer/vocab.json").write_text("no"),
}


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_one_line(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "w")
    DAMAGE[damage](tmp_path / "w")
    with pytest.raises(InputError) as why:
        bundle.load(str(tmp_path / "w"))
    assert f"--weights {tmp_path / 'w'}" in str(why.value) and "\n" not in str(why.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_and_not_read(folder, tmp_path, part):
    shutil.copytree(folder, tmp_path / "w")
    (stored,) = (tmp_path / "w" / part).glob("*.safetensors")
    torch.save(load_file(stored), stored.with_suffix(".bin"))
    stored.unlink()
    with pytest.raises(InputError, match=rf"{part}/\w+\.bin is a pickle.*tools/convert_checkpoint.py state"):
        bundle.load(str(tmp_path / "w"))


def test_digest_changes_with_a_byte(folder, tmp_path, parts):
    want = parts.weights()
    assert want["name"] == "toy" and len(want["sha256"]) == 64
    shutil.copytree(folder, tmp_path / "w")
    assert bundle.load(str(tmp_path / "w")).weights()["sha256"] == want["sha256"]
    path = tmp_path / "w/unet/diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert bundle.load(str(tmp_path / "w")).weights()["sha256"] != want["sha256"]


def test_digest_and_fetch_take_what_is_read_and_nothing_else(folder, tmp_path, monkeypatch):
    """Every file of a saved bundle counts; other precisions, other parts and notes do not, and are not fetched."""
    shutil.copytree(folder, tmp_path / "w")
    want = bundle.digest(folder)
    assert want == folder_digest(folder) == bundle.digest(tmp_path / "w")
    more = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors", "notes.txt",
            "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "safety_checker/config.json",
            "unet/diffusion_pytorch_model.non_ema.safetensors", "guidance.json"]  # fmt: skip
    parted = ["unet/diffusion_pytorch_model-00001-of-00002.safetensors",
              "unet/diffusion_pytorch_model.safetensors.index.json", "tokenizer/added_tokens.json"]  # fmt: skip
    for name in more:
        (tmp_path / "w" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "w" / name).write_text("{}")
    assert bundle.digest(tmp_path / "w") == want
    assert bundle.digest(tmp_path / "w", "guidance.json") != want
    for name in [*(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()), *parted]:
        path = tmp_path / "w" / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + b" ")
        assert bundle.digest(tmp_path / "w") != want, name
        path.unlink() if before is None else path.write_bytes(before)
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: asked.append(allow_patterns) or folder)
    assert bundle.find("some/model") == ("some/model", folder)

    def fetched(name):
        return any(fnmatchcase(name, pattern) for pattern in asked[0])

    assert not any(map(fetched, more)) and all(map(fetched, parted))
    assert all(fetched(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file())


def test_shipped_names_are_folders_with_an_index():
    for name, where in bundle.shipped().items():
        assert where.name == name and (where / "model_index.json").is_file()
