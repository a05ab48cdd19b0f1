"""Properties 1, 2, 7, 25: the loop with and without guidance, on the real classes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from didgen.config import DrawConfig, LayoutConfig
from didgen.denoise import Denoiser, box_pull, denoiser, layout_pull, run, strengths
from didgen.encode import encode, encode_layouts
from didgen.maps import map_grids
from didgen.pipeline import checked_layouts, draw_pairs, draw_pictures, fitted, size_for
from didgen.prompts import prompt_of
from didgen.stream import PairDataset
from didgen.write import mask_image
from graft_common.errors import InputError
from graft_common.raster import write_png


def disc(size: int, radius: float, center=(0.5, 0.5)) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


LAYOUTS = [disc(64, 0.2, (0.35, 0.35)), disc(64, 0.3, (0.6, 0.55)), disc(64, 0.15, (0.7, 0.3))]


def batch(model, count: int = 2, latent=(16, 16)):
    prompts = [prompt_of(m, i) for i, m in enumerate(LAYOUTS[:count])]
    enc = encode(model.bundle, prompts, list(range(count)), latent)
    return enc, encode_layouts(LAYOUTS[:count], map_grids(model.bundle.unet, latent), ["a", "b", "c"][:count])


def test_no_step_size_is_plain_sampling_bit_for_bit(untrained):
    config = LayoutConfig(steps=4, eta=0.0)
    enc, layouts = batch(untrained)
    network = denoiser(untrained.bundle, config)
    pull = layout_pull(network, enc, layouts, config)
    guided = run(enc, network, 7.5, pull=pull, strengths=strengths(4, 0.5, 0.0), annotate=True)
    plain = run(enc, denoiser(untrained.bundle, config), 7.5)
    assert torch.equal(guided.latents, plain.latents)
    assert guided.attention is not None and plain.attention is None
    assert guided.attention.affinity.sum(-1) == pytest.approx(torch.ones(2, 256), abs=1e-4)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_plain_sampling_is_diffusers_own(untrained, predicts):
    base = replace(untrained.bundle, schedule=untrained.bundle.schedule | {"prediction_type": predicts})
    config = DrawConfig(steps=5, guidance=3.0)
    prompt = prompt_of(LAYOUTS[0], 0)
    enc = encode(base, [prompt], [7], (16, 16))
    ours = run(enc, denoiser(base, config), 3.0).latents
    pipeline = StableDiffusionPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet,
        scheduler=DDIMScheduler.from_config(base.schedule), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(prompt, num_inference_steps=5, guidance_scale=3.0, latents=enc.noise, output_type="latent").images
    assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("steps", [4, 5])
def test_guidance_costs_one_call_for_each_of_the_first_half(untrained, steps):
    config = LayoutConfig(steps=steps)
    enc, layouts = batch(untrained, 1)
    network = denoiser(untrained.bundle, config)
    out = run(
        enc, network, 7.5, pull=layout_pull(network, enc, layouts, config), strengths=strengths(steps, 0.5, 20.0)
    )
    assert network.calls == steps + steps // 2 and len(out.losses) == steps // 2


def double(model):
    """The same network in float64."""
    return replace(model.bundle, unet=copy.deepcopy(model.bundle.unet).double())


def test_a_small_step_lowers_the_loss_and_the_gradient_is_that_of_finite_differences(untrained):
    config = LayoutConfig(steps=10)
    enc, layouts = batch(untrained)
    bundle = double(untrained)
    pull = layout_pull(denoiser(bundle, config), replace(enc, noise=enc.noise.double()), layouts, config)
    start = enc.noise.double()
    z = start.clone().requires_grad_()
    loss = pull(z, 10)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert all(p.grad is None and not p.requires_grad for p in bundle.unet.parameters())
    with torch.no_grad():
        assert (pull(start - 1e-3 * grad, 10) < loss).all()
        way = grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        slope = (pull(start + 1e-4 * way, 10) - pull(start - 1e-4 * way, 10)) / 2e-4
    assert torch.allclose(slope, grad.flatten(1).norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_guidance_in_half_precision_goes_the_same_way(untrained, dtype, near):
    """Gradients of 1e-6 and less vanish in float16 unless the loss is raised before."""
    config = LayoutConfig(steps=10)
    enc, layouts = batch(untrained, 1)
    moved = []
    for kind in (torch.float32, dtype):
        bundle = replace(untrained.bundle, unet=copy.deepcopy(untrained.bundle.unet).to(kind))
        network = denoiser(bundle, config)
        monkey = Denoiser(bundle, network.grid)
        monkey.guided = lambda x, *rest, **more: torch.zeros_like(x)  # only the guidance is looked at
        out = run(enc, monkey, 7.5, pull=layout_pull(network, enc, layouts, config), strengths=[1e3])
        plain = run(enc, monkey, 7.5)
        moved.append(out.latents - plain.latents)
    assert float((moved[1] - moved[0]).norm() / moved[0].norm()) < near


def test_a_network_of_another_prediction_is_refused(untrained):
    base = replace(untrained.bundle, schedule=untrained.bundle.schedule | {"prediction_type": "sample"})
    with pytest.raises(InputError, match="predicts 'sample'"):
        denoiser(base, DrawConfig())


def test_guidance_that_leaves_the_numbers_names_its_flag(untrained):
    enc, _ = batch(untrained, 1)
    with pytest.raises(InputError, match="lower --eta"):
        run(enc, denoiser(untrained.bundle, DrawConfig(steps=2)), 1.0, pull=lambda z, k: z.sum((1, 2, 3)) / 0, strengths=[1.0])


@pytest.mark.parametrize(("share", "count"), [(0.29, 29), (0.5, 50), (0.0, 0), (1.0, 100)])
def test_the_share_of_guided_steps_is_counted_without_rounding_errors(share, count):
    falling = strengths(100, share, 20.0, decay=True)
    assert len(strengths(100, share, 20.0)) == len(falling) == count
    assert falling == pytest.approx((20 * np.sqrt(np.linspace(1, 0.5, 100)))[:count].tolist())


def test_samples_do_not_mix_in_a_batch(untrained):
    config = LayoutConfig(steps=2)
    network = denoiser(double(untrained), config)

    def guided(rows: list[int]) -> torch.Tensor:
        prompts = [prompt_of(LAYOUTS[i], i) for i in rows]
        own = encode(untrained.bundle, prompts, rows, (16, 16))
        own = replace(own, noise=own.noise.double())
        on = encode_layouts([LAYOUTS[i] for i in rows], map_grids(untrained.bundle.unet, (16, 16)), ["x"] * len(rows))
        return run(own, network, 7.5, pull=layout_pull(network, own, on, config), strengths=[20.0]).latents

    together = guided([0, 1, 2])
    alone = torch.cat([guided([i]) for i in range(3)])
    assert float((together - alone).abs().max()) < 1e-5  # guide() keeps float64


def test_each_loss_can_be_left_out_and_the_sum_is_the_sum(untrained):
    enc, layouts = batch(untrained)
    network = denoiser(untrained.bundle, DrawConfig(steps=4))
    z = enc.noise.clone().requires_grad_()
    values = [
        layout_pull(network, enc, layouts, LayoutConfig(cross_loss=c, self_loss=s))(z, 4)
        for c, s in ((True, True), (True, False), (False, True))
    ]
    assert torch.allclose(values[0], values[1] + values[2], atol=1e-6)
    assert (values[1] > 0).all() and (values[2] > 0).all()


def test_pairs_have_the_layouts_aspect_and_depend_on_their_seed(untrained):
    wide = np.kron(LAYOUTS[0][:, :48], np.ones((3, 3), bool))  # 192 x 144
    assert size_for(wide.shape, untrained.bundle) == (88, 64)
    config = LayoutConfig(steps=2)
    pairs = draw_pairs([wide] * 2, [prompt_of(wide, 0)] * 2, [1, 2], config, untrained)
    assert all(p.image.shape == (88, 64, 3) and p.annotation.mask.shape == (88, 64) for p in pairs)
    assert not np.array_equal(pairs[0].image, pairs[1].image)
    again = draw_pairs([wide] * 2, [prompt_of(wide, 0)] * 2, [1, 2], config, untrained)
    assert np.array_equal(pairs[0].image, again[0].image)


def test_a_box_steers_and_stays_finite_at_one_cell(untrained):
    config = DrawConfig(steps=2)
    prompts, seeds = [prompt_of(LAYOUTS[0], 0)], [0]
    plain = draw_pictures(prompts, seeds, config, untrained)[0]
    for box in ((0.5, 0.5, 0.52, 0.53), (0.0, 0.0, 1.0, 1.0), (0.1, 0.1, 0.5, 0.6)):
        guided = draw_pictures(prompts, seeds, config, untrained, box=box, sizes=[20.0])[0]
        assert not np.array_equal(plain, guided)
    network = denoiser(untrained.bundle, config)
    enc = encode(untrained.bundle, prompts, seeds, (16, 16))
    assert box_pull(network, enc, (0.5, 0.5, 0.52, 0.53))(enc.noise, 2).isfinite().all()


@pytest.mark.parametrize(("mask", "said"), [(np.zeros((64, 64), bool), "empty"), (np.ones((64, 64), bool), "all lesion")])
def test_layouts_without_lesion_or_skin_are_refused(untrained, mask, said):
    with pytest.raises(InputError, match=said):
        encode_layouts([mask], map_grids(untrained.bundle.unet, (16, 16)), ["mine"])


@pytest.mark.parametrize(
    ("layouts", "said"),
    [
        ([], "0 layouts"),
        ([LAYOUTS[0], LAYOUTS[0][:, :40]], "differ in aspect"),
    ],
)
def test_layouts_that_cannot_be_drawn_together_are_refused(untrained, layouts, said):
    count = len(layouts)
    with pytest.raises(InputError, match=said):
        draw_pairs(layouts, ["x"] * count, list(range(count)), LayoutConfig(steps=1), untrained)
    with pytest.raises(InputError, match="boolean"):
        checked_layouts([LAYOUTS[0].astype(np.uint8) * 255], ["x"], [0])
    with pytest.raises(InputError, match="2 seeds"):
        draw_pairs(LAYOUTS[:1], ["x"], [1, 2], LayoutConfig(steps=1), untrained)


def test_a_layout_thinner_than_a_pixel_is_kept():
    line = np.zeros((512, 512), bool)
    line[200, 100:400] = True
    assert 30 < fitted(line, (64, 64)).sum() < 45 and not fitted(np.zeros((512, 512), bool), (64, 64)).any()


def test_a_dataset_draws_the_same_item_on_every_call(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr("didgen.stream.load_model", lambda config: untrained)
    write_png(tmp_path / "a.tiff.png", mask_image(LAYOUTS[0]), {})
    data = PairDataset(tmp_path, length=3, steps=1, seed=4)
    first, again = data[2], data[2]
    assert len(data) == 3 and first["seed"] == 6 and torch.equal(first["image"], again["image"])
    assert first["image"].shape == (3, 64, 64) and 0 <= float(first["image"].min()) <= float(first["image"].max()) <= 1
    assert first["mask"].shape == (1, 64, 64) and set(first["mask"].unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(first["image"], data[1]["image"])
    with pytest.raises(IndexError):
        data[3]
    for bad in (lambda: PairDataset(tmp_path / "nowhere"), lambda: PairDataset([]), lambda: PairDataset([LAYOUTS[0]], length=0)):
        with pytest.raises(InputError):
            bad()
    with pytest.raises(TypeError, match="unknown setting"):
        PairDataset([LAYOUTS[0]], stepz=1)


def test_a_thin_lesion_keeps_its_fullest_cell(untrained):
    line = np.zeros((64, 64), bool)
    line[30, 10:50] = True
    on = encode_layouts([line], map_grids(untrained.bundle.unet, (16, 16)), ["line"])
    assert on.inside.sum() >= 1 and 0 < float(on.cross.max()) < 0.5
