"""Spec 7, properties 5 to 10, 12, 14, 15 and 19 to 22: merging on exact denoisers, and on small random networks."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusionmix.box import Box
from diffusionmix.chains import Chain
from diffusionmix.compose import merge, merge_scenes, sample_backgrounds, sample_objects, to_pixels
from diffusionmix.config import MergeConfig
from diffusionmix.merging import blend, composite, mask_of, seen
from diffusionmix.noise import JUMP, MERGE, OBJECT, Noise
from diffusionmix.records import Merged, Mix, Net, Placed, Snapshot
from diffusionmix.respace import respace
from graft_common.errors import InputError
from graft_common.rng import noise as drawn

BOX = Box(4, 6, 16, 16)  # of the object model's size: nothing is resized


class Small(torch.nn.Module):
    """Two random convolutions; `reach` 0 sees one pixel only."""

    def __init__(self, channels: int, reach: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        side = 2 * reach + 1
        self.a = torch.nn.Conv2d(channels, 12, side, padding=reach)
        self.b = torch.nn.Conv2d(12, channels, side, padding=reach)
        self.requires_grad_(False)
        self.calls = 0

    def forward(self, x: torch.Tensor, time: torch.Tensor, class_labels: Any = None) -> Any:
        self.calls += 1
        shift = 0.0 if class_labels is None else 0.3 * class_labels.float().view(-1, 1, 1, 1)
        return SimpleNamespace(sample=x + self.b(torch.tanh(self.a(x + shift) + time / 1000)))


def small_mix(build: Any, reach: int = 1, classes: int = 0, layers: int = 1) -> Mix:
    objects = [Net("object", Small(4, reach, 1 + k), build.abar, 4, (16, 16), classes=classes) for k in range(layers)]
    names = tuple(f"c{i}" for i in range(classes))
    return Mix(tuple(objects), Net("background", Small(3, reach, 9), build.abar, 3, (32, 32)), names)


def settings(**changes: Any) -> MergeConfig:
    return MergeConfig(**{"steps": 20, "tau": 10, "r": 1} | changes)


def watched(mix: Mix, boxes: list[Box], seeds: list[int], config: MergeConfig, **more: Any) -> tuple[list[Merged], list[Snapshot]]:
    seen_: list[Snapshot] = []
    return merge(mix, boxes, seeds, config, watch=seen_.append, **more), seen_


# 5: constant models, the composite is known


@pytest.mark.parametrize("mode", ["xstart", "direct"])
def test_constant_models_give_the_exact_composite(build, mode: str) -> None:
    mix = build.mix()
    _, steps = watched(mix, [BOX], [3], settings(steps=50, tau_steps=5, mode=mode))
    truth = torch.full((3, 32, 32), -0.5)
    inside = build.disc(16, 5) > 0
    truth[:, 6:22, 4:20][:, inside] = 0.5
    assert (steps[-1].background[0] - truth).abs().max() < 1e-6


def test_literal_mode_leaves_noise(build) -> None:
    mix = build.mix(size=32, canvas=32, radius=40)
    result, steps = watched(mix, [Box(0, 0, 32, 32)] * 4, [3, 4, 5, 6], settings(steps=50, tau_steps=5, mode="literal"))
    left = steps[-1].background - 0.5 * build.abar[0]
    assert float(left.std()) == pytest.approx(math.sqrt(1 - build.abar[0] ** 2), rel=0.05)
    assert 0.03 < float(left.abs().max()) < 0.08
    assert result[0].calls == 55


# 6: merging off


@pytest.mark.parametrize("sampler", ["ddpm"])
def test_unmerged_chains_are_independent_samples(build, sampler: str) -> None:
    mix = small_mix(build)
    config = settings(start="none", sampler=sampler)
    merged = merge(mix, [BOX, BOX], [4, 9], config)
    for result, image, (square, mask) in zip(
        merged, sample_backgrounds(mix, [4, 9], config), sample_objects(mix, [4, 9], None, config), strict=True
    ):
        np.testing.assert_array_equal(result.image, image)
        np.testing.assert_array_equal(result.object, square)
        np.testing.assert_array_equal(result.object_mask, mask)
        assert result.flags == ("not merged",) and not result.mask.any()


def test_start_one_is_a_hard_paste(build) -> None:
    mix = small_mix(build)
    hard = merge(mix, [BOX], [4], settings(start=1, r=0))[0]
    plain, (square, mask) = sample_backgrounds(mix, [4], settings())[0], sample_objects(mix, [4], None, settings())[0]
    np.testing.assert_array_equal(hard.image[~hard.mask], plain[~hard.mask])
    np.testing.assert_array_equal(hard.mask[6:22, 4:20], mask)
    np.testing.assert_array_equal(hard.image[6:22, 4:20][mask], square[mask])
    assert mask.any() and not mask.all()


# 7 and 8: where values come from


def test_outside_the_box_nothing_changes_for_pixelwise_models(build) -> None:
    mix = small_mix(build, reach=0)
    boxes = [BOX, Box(3, 2, 24, 20)]
    with_, without = merge(mix, boxes, [1, 2], settings(r=0, start=0)), merge(mix, boxes, [1, 2], settings(start="none"))
    for a, b, box in zip(with_, without, boxes, strict=True):
        outside = np.ones((32, 32), bool)
        outside[box.y : box.y + box.h, box.x : box.x + box.w] = False
        np.testing.assert_array_equal(a.image[outside], b.image[outside])
        assert (a.image != b.image)[~outside].any()


def test_values_of_the_canvas_after_every_merge(build) -> None:
    mix, seed = small_mix(build), 7
    config = settings(start=0.5, r=2)
    _, steps = watched(mix, [BOX], [seed], config)
    tables, merged = respace(build.abar, 20), 0
    for s in steps:
        if s.covers is None:
            assert torch.equal(s.background, s.own_background)
            continue
        merged += 1
        cover = s.covers[0].bool()
        assert set(s.covers[0].unique().tolist()) <= {0.0, 1.0}
        m = (s.guess_objects[0][:, -1:] > 0).float()
        inside = torch.zeros_like(s.background)
        inside[:, :, 6:22, 4:20] = s.guess_objects[0][:, :3]
        b = inside
        if s.state:
            n = drawn((3, 32, 32), seed, MERGE, s.position, 0)
            b = math.sqrt(tables.abar[s.state]) * inside + math.sqrt(1 - tables.abar[s.state]) * n
        assert torch.equal(s.background, torch.where(cover, b, s.own_background))
        # object chain: own colour in the mask, the noised background around it, the mask channel untouched (property 9)
        view = s.guess_background[:, :, 6:22, 4:20]
        a = view
        if s.state:
            n = drawn((3, 16, 16), seed, MERGE, s.position, 1)
            a = math.sqrt(tables.abar[s.state]) * view + math.sqrt(1 - tables.abar[s.state]) * n
        assert torch.equal(s.objects[0][:, :3], torch.where(m.bool(), s.own_objects[0][:, :3], a))
        assert torch.equal(s.objects[0][:, -1:], s.own_objects[0][:, -1:])
        assert torch.equal(cover[0, 0, 6:22, 4:20], m[0, 0].bool())
    assert merged == 10 + 1 + 2  # states 10 to 0 down, and tau of 1 twice


def test_output_mask_is_the_last_threshold(build) -> None:
    mix = small_mix(build)
    for box in (BOX, Box(2, 1, 29, 23)):
        result, steps = watched(mix, [box], [5], settings())
        m = (steps[-1].guess_objects[0][:, -1:] > 0).float()
        np.testing.assert_array_equal(result[0].object_mask, m[0, 0].numpy() > 0)
        cover = F.interpolate(m, (box.h, box.w), mode="bilinear", align_corners=False) >= 0.5
        canvas = np.zeros((32, 32), bool)
        canvas[box.y : box.y + box.h, box.x : box.x + box.w] = cover[0, 0].numpy()
        np.testing.assert_array_equal(result[0].mask, canvas)


def test_other_sources_and_soft_masks(build) -> None:
    mix = small_mix(build)
    _, steps = watched(mix, [BOX], [5], settings(mask_source="sample", start=0.5))
    s = next(s for s in steps if s.covers is not None)
    assert torch.equal(s.covers[0][:, :, 6:22, 4:20], (s.own_objects[0][:, -1:] > 0).float())  # type: ignore[index]
    _, steps = watched(mix, [BOX], [5], settings(soft=True, start=0.5))
    s = next(s for s in steps if s.covers is not None)
    share = ((s.guess_objects[0][:, -1:] + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(s.covers[0][:, :, 6:22, 4:20], share)  # type: ignore[index]
    n = drawn((3, 32, 32), 5, MERGE, s.position, 0)
    abar = respace(build.abar, 20).abar[s.state]
    own = s.own_background[:, :, 6:22, 4:20]
    b = math.sqrt(abar) * s.guess_objects[0][:, :3] + math.sqrt(1 - abar) * n[:, 6:22, 4:20]
    torch.testing.assert_close(s.background[:, :, 6:22, 4:20], share * b + (1 - share) * own, rtol=0, atol=1e-5)


# 10 and 12: the level of what crosses


@pytest.mark.parametrize("mode", ["xstart", "literal"])
def test_crossing_noise_has_the_right_level(build, mode: str) -> None:
    mix = build.mix(size=64, canvas=64, radius=99)
    count = 34
    _, steps = watched(mix, [Box(0, 0, 64, 64)] * count, list(range(count)), settings(steps=6, r=0, start=0, mode=mode))
    tables = respace(build.abar, 6)
    for s in steps:
        a = tables.abar[s.state] if mode == "xstart" else tables.abar[s.state + 1] ** 2
        mean, std = math.sqrt(a) * 0.5, math.sqrt(1 - a)
        assert s.background.numel() > 400_000
        assert float(s.background.mean()) == pytest.approx(mean, abs=0.01 * max(mean, std))
        assert float(s.background.std()) == pytest.approx(std, rel=0.01, abs=1e-6)


@pytest.mark.parametrize("side", [8, 12, 16, 24, 32])
def test_noise_is_never_resized(build, side: int) -> None:
    mix = build.mix(radius=99)
    count = 8 if side < 16 else 2
    _, steps = watched(mix, [Box(0, 0, side, side)] * count, list(range(count)), settings(steps=50, r=0, start=0))
    tables = respace(build.abar, 50)
    left = []
    for s in steps[:-1]:
        a = tables.abar[s.state]
        cut = (s.background - math.sqrt(a) * 0.5)[..., :side, :side] / math.sqrt(1 - a)
        left.append(cut.flatten())
    assert float(torch.cat(left).std()) == pytest.approx(1, rel=0.02)


# 14: order of the assignments


def test_directions_do_not_see_each_other(build) -> None:
    mix = small_mix(build)
    first = {}
    for direction in ("both", "to-background", "to-object"):
        _, steps = watched(mix, [BOX], [5], settings(direction=direction, start=0.5))
        first[direction] = next(s for s in steps if s.covers is not None)
    assert torch.equal(first["both"].background, first["to-background"].background)
    assert torch.equal(first["both"].objects[0], first["to-object"].objects[0])
    assert torch.equal(first["to-object"].background, first["to-object"].own_background)
    assert torch.equal(first["to-background"].objects[0], first["to-background"].own_objects[0])


def test_one_direction_still_pastes_at_the_end(build) -> None:
    result, steps = watched(small_mix(build), [BOX], [5], settings(direction="to-object"))
    inside = result[0].mask
    np.testing.assert_array_equal(result[0].image[6:22, 4:20][inside[6:22, 4:20]], result[0].object[inside[6:22, 4:20]])
    assert all(torch.equal(s.background, s.own_background) for s in steps[:-1]) and inside.any()


# 15: empty and full masks


def test_empty_mask_leaves_the_background_alone(build) -> None:
    mix = small_mix(build)
    empty = build.mix(radius=0).object
    mix = Mix((empty,), mix.background)
    result = merge(mix, [BOX], [5], settings(r=0, start=0.5))[0]
    np.testing.assert_array_equal(result.image, sample_backgrounds(mix, [5], settings())[0])
    assert result.flags == ("empty mask",) and not result.mask.any()


@pytest.mark.parametrize("box", [BOX, Box(3, 5, 21, 25)])
def test_full_mask_fills_the_box(build, box: Box) -> None:
    mix = build.mix(radius=99)
    result = merge(mix, [box], [5], settings())[0]
    assert result.flags == ("full mask",) and result.mask.sum() == box.w * box.h
    assert (result.image[result.mask] == 191).all() and (result.image[~result.mask] == 64).all()


# 19: seeds


def test_equal_seeds_equal_pictures_whatever_the_batch(build) -> None:
    mix = small_mix(build)
    boxes, seeds = [BOX, Box(2, 2, 24, 20), Box(10, 9, 12, 16)], [11, 4, 7]
    together = merge(mix, boxes, seeds, settings())
    again = merge(mix, boxes, seeds, settings())
    for i in range(3):
        alone = merge(mix, boxes[i : i + 1], seeds[i : i + 1], settings())[0]
        np.testing.assert_array_equal(together[i].image, again[i].image)
        # networks round differently with the batch, by less than a grey level
        assert np.abs(alone.image.astype(int) - together[i].image).max() <= 1
        assert (alone.mask == together[i].mask).mean() > 0.999
    assert (together[0].image != together[1].image).mean() > 0.5


def test_merge_seed_changes_merged_states_alone(build) -> None:
    mix = small_mix(build)
    _, a = watched(mix, [BOX], [5], settings(start=0.5))
    _, b = watched(mix, [BOX], [5], settings(start=0.5, merge_seed=1))
    for x, y in zip(a, b, strict=True):
        same = torch.equal(x.background, y.background) and torch.equal(x.objects[0], y.objects[0])
        assert same == (x.position < 10), x.position


def test_climbs_do_not_change_the_first_descent(build) -> None:
    _, a = watched(small_mix(build), [BOX], [5], settings(r=0))
    _, b = watched(small_mix(build), [BOX], [5], settings(r=2))
    assert all(torch.equal(x.background, y.background) for x, y in zip(a, b, strict=False))
    assert len(b) == len(a) + 2 and b[len(a)].state == 0


def test_climbs_have_a_stream_of_their_own(build) -> None:
    tables, noise = respace(build.abar, 20), Noise((3, 4), 8, torch.device("cpu"))
    chain = Chain(build.mix().object, tables, [[0, 1]], OBJECT, noise)
    x = torch.randn(2, 4, 16, 16)
    n = torch.stack([drawn((4, 16, 16), seed, JUMP, 30, member) for seed, member in ((3, 0), (4, 1))])
    expected = math.sqrt(1 - tables.beta[8]) * x + math.sqrt(tables.beta[8]) * n
    assert torch.equal(chain.climb(x, 7, 30), expected)


def test_streams_of_noise_are_unrelated() -> None:
    noise = Noise((3, 4), None, torch.device("cpu"))
    a, b = noise(OBJECT, 5, (4, 8, 8), [[0, 0]]), noise(JUMP, 5, (4, 8, 8), [[0, 0]])
    assert a.shape == (2, 4, 8, 8)
    later, second = noise(OBJECT, 6, (4, 8, 8), [[0, 0]])[0], noise(OBJECT, 5, (4, 8, 8), [[1, 0]])[0]
    values = torch.stack([a[0], a[1], b[0], b[1], later, second])
    correlation = np.corrcoef(values.flatten(1).numpy())
    assert np.abs(correlation - np.eye(6)).max() < 0.25
    assert torch.equal(a[0], drawn((4, 8, 8), 3, OBJECT, 5, 0))


# 20 and 21: refusals, cost


@pytest.mark.parametrize(
    ("box", "change", "says"),
    [(Box(20, 20, 16, 16), {}, "leaves the picture"), (Box(0, 0, 0, 16), {}, "at least 8"), (Box(0, 0, 40, 16), {}, "larger"),
     (BOX, {"tau_steps": 3}, "--tau-steps 3"), (BOX, {"start": float("inf")}, "--start inf"),
     (BOX, {"start": -0.1}, "--start -0.1"),
     (BOX, {"steps": 1001}, "--steps 1001"), (BOX, {"r": -1}, "--r -1"),
     (Box(0, 0, 20, 16), {"mode": "direct"}, "--mode direct with --box 0,0,20,16"),
     (BOX, {"sampler": "ddim", "mode": "literal"}, "--mode literal"),
     (BOX, {"sampler": "ddim", "mask_source": "sample"}, "--mask-source")],
)  # fmt: skip
def test_refuses_before_any_network_runs(build, box: Box, change: dict[str, Any], says: str) -> None:
    mix = small_mix(build)
    with pytest.raises(InputError, match=says):
        merge(mix, [box], [0], settings(**change))
    assert mix.object.module.calls == mix.background.module.calls == 0  # type: ignore[union-attr]


def test_refuses_labels_counts_and_missing_halves(build) -> None:
    mix = small_mix(build, classes=2)
    for labels in ([2], [-1]):
        with pytest.raises(InputError, match="knows 2 classes"):
            merge(mix, [BOX], [0], settings(), labels)
    with pytest.raises(InputError, match="1 boxes, 2 labels"):
        merge(mix, [BOX], [0], settings(), [0, 1])
    with pytest.raises(InputError, match="1 scenes, 2 seeds"):
        merge(mix, [BOX], [0, 1], settings())
    with pytest.raises(InputError, match="no background"):
        merge(Mix(mix.objects, None), [BOX], [0], settings())
    with pytest.raises(InputError, match="a photograph has no states"):
        merge(mix, [BOX], [0], settings(mode="direct"), photo=np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(("T", "tau", "r"), [(20, 10, 1), (25, 50, 3), (12, 0, 4)])
def test_calls_are_counted(build, T: int, tau: int, r: int) -> None:
    mix = small_mix(build)
    result = merge(mix, [BOX, BOX], [0, 1], settings(steps=T, tau=tau, r=r, start=0.5))[0]
    climb = 0 if tau == 0 else max(1, round(tau * T / 250))
    assert result.calls == mix.object.module.calls == mix.background.module.calls == T + r * climb  # type: ignore[union-attr]


# 22: several objects


def test_disjoint_objects_do_not_care_about_their_order(build) -> None:
    mix = small_mix(build, classes=2)
    a, b = Placed(Box(0, 0, 16, 16), 0), Placed(Box(17, 14, 15, 18), 1)
    one = merge_scenes(mix, [[a, b]], [5], settings(start=0.5, r=2))[0]
    two = merge_scenes(mix, [[b, a]], [5], settings(start=0.5, r=2))[0]
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    np.testing.assert_array_equal(one.parts[0].object, two.parts[1].object)
    assert (one.parts[0].object != one.parts[1].object).any() and one.parts[1].mask.any()


def test_the_nearest_object_hides_the_others(build) -> None:
    near = build.mix(radius=5).object
    far_picture = torch.full((4, 16, 16), 1.0, dtype=torch.float64)
    far_picture[:3] = 0.1
    mix = Mix((build.net("object", far_picture), near), build.mix().background)
    scene = [Placed(Box(0, 0, 16, 16), source=0), Placed(Box(6, 4, 16, 16), source=1)]
    result, disc = merge_scenes(mix, [scene], [2], settings())[0], build.disc(16, 5).numpy() > 0
    truth = np.full((32, 32), 64)
    truth[0:16, 0:16] = 140
    truth[4:20, 6:22][disc] = 191
    assert (result.image == truth[..., None]).all()
    hidden = np.zeros((32, 32), bool)
    hidden[4:20, 6:22] = disc
    np.testing.assert_array_equal(result.parts[1].mask, hidden)
    assert not (result.parts[0].mask & hidden).any()
    np.testing.assert_array_equal(result.mask, hidden | (truth == 140))


def test_each_object_sees_the_others(build) -> None:
    mix = build.mix(radius=5)
    scene = [Placed(Box(0, 0, 16, 16)), Placed(Box(8, 0, 16, 16))]
    steps: list[Snapshot] = []
    merge_scenes(mix, [scene], [2], settings(), watch=steps.append)
    disc = build.disc(16, 5) > 0
    view = torch.full((16, 16), -0.5)
    view[:, 8:][disc[:, :8]] = 0.5  # the left half of the other's disc
    view[disc] = 0.5
    torch.testing.assert_close(steps[-1].objects[0][0, 0], view, rtol=0, atol=1e-6)


def test_depth_masks() -> None:
    covers = [torch.tensor([1.0, 1, 0, 1]).view(1, 1, 1, 4), torch.tensor([0.0, 1, 1, 0.25]).view(1, 1, 1, 4)]
    assert [x.flatten().tolist() for x in seen(covers)] == [[1, 0, 0, 0.75], [0, 1, 1, 0.25]]
    base = torch.zeros(1, 1, 1, 4)
    assert composite(base, [base + 1, base + 2], covers).flatten().tolist() == [1, 2, 2, 1.25]
    assert blend(covers[1], base + 3, base).flatten().tolist() == [0, 3, 3, 0.75]
    channel = torch.tensor([-1.0, 0.0, 0.5, 2.0]).view(1, 1, 2, 2)
    assert mask_of(channel, True).flatten().tolist() == [0, 0.5, 0.75, 1]
    assert mask_of(channel).flatten().tolist() == [0, 0, 1, 1]


# labels, photographs, known objects


def test_labels_reach_the_network_and_are_drawn_from_the_seed(build) -> None:
    mix = small_mix(build, classes=3)
    drawn_ = [r.label for r in merge(mix, [BOX] * 12, list(range(12)), settings(steps=2))]
    assert set(drawn_) == {0, 1, 2}
    assert [merge(mix, [BOX], [s], settings(steps=2))[0].label for s in range(12)] == drawn_
    given = merge(mix, [BOX] * 2, [0, 0], settings(steps=5), [0, 2])
    assert (given[0].object != given[1].object).any()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "unipc"])
def test_photograph_keeps_its_pixels_and_needs_no_background_model(build, sampler: str) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mix = Mix(build.mix().objects, None)
    boxes = [Box(30, 20, 24, 20), Box(54, 34, 16, 16)]
    for result, box in zip(merge(mix, boxes, [0, 1], settings(sampler=sampler), photo=photo), boxes, strict=True):
        np.testing.assert_array_equal(result.image[~result.mask], photo[~result.mask])
        assert result.mask.any() and (result.image[result.mask] == 191).all()
        inside = np.zeros((50, 70), bool)
        inside[box.y : box.y + box.h, box.x : box.x + box.w] = True
        assert not result.mask[~inside].any()
        assert result.image.shape == photo.shape


def test_object_sees_the_photograph_at_its_noise_level(build) -> None:
    photo = np.full((40, 40, 3), 200, np.uint8)
    _, steps = watched(Mix(build.mix().objects, None), [BOX], [5], settings(start=0.5), photo=photo)
    s = next(s for s in steps if s.covers is not None)
    a = respace(build.abar, 20).abar[s.state]
    outside = ~(build.disc(16, 5) > 0)
    n = drawn((3, 16, 16), 5, MERGE, s.position, 1)
    expected = math.sqrt(a) * (200 / 127.5 - 1) + math.sqrt(1 - a) * n
    torch.testing.assert_close(s.objects[0][0, :3][:, outside], expected[:, outside], rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[-1].objects[0][0, 0][outside], torch.full((int(outside.sum()),), 200 / 127.5 - 1))


def test_a_photograph_of_several_boxes_is_one_window_each(build) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    scene = [Placed(Box(2, 3, 16, 16)), Placed(Box(40, 44, 16, 16))]
    result = merge_scenes(Mix(build.mix().objects, None), [scene, scene], [0, 1], settings(), photo)
    for r in result:
        np.testing.assert_array_equal(r.image[~r.mask], photo[~r.mask])
        assert r.parts[0].mask.sum() == r.parts[1].mask.sum() == int((build.disc(16, 5) > 0).sum())


def test_known_objects_are_painted_around(build) -> None:
    square = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = build.disc(16, 5).numpy() > 0
    mix = small_mix(build)
    result = merge(mix, [BOX], [5], settings(start=0), known=[(square, mask)])[0]
    np.testing.assert_array_equal(result.image[6:22, 4:20][mask], square[mask])
    np.testing.assert_array_equal(result.object[mask], square[mask])
    assert mix.object.module.calls == 0 and result.calls == mix.background.module.calls  # type: ignore[union-attr]
    torch.testing.assert_close(to_pixels(square)[0, 0, 0].item(), square[0, 0, 0] / 127.5 - 1, rtol=0, atol=1e-6)


def test_keep_aspect_puts_the_object_in_a_square(build) -> None:
    result = merge(build.mix(radius=99), [Box(2, 3, 28, 16)], [0], settings(keep_aspect=True))[0]
    rows, columns = np.flatnonzero(result.mask.any(1)), np.flatnonzero(result.mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (3, 18, 8, 23)


def test_repaint_schedule_runs(build) -> None:
    mix = build.mix()
    result, _ = watched(mix, [BOX], [0], settings(steps=30, start=0.5, tau_steps=5, r=2, schedule="repaint"))
    assert result[0].calls == 30 + 3 * 2 * 5 and set(np.unique(result[0].image)) == {64, 191}
