"""The judges' networks: shapes, learning, small pictures, published weights, strangers' classes, overlap in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from didgen.classifier import HEADS, _built, _renamed, build_classifier, read_tensors, stem_stride
from didgen.config_study import ClsSettings, Networks, SegSettings
from didgen.learn import outputs
from didgen.samples import Samples, prepared
from didgen.seg_metrics import overlap, trivial_masks
from didgen.segmenter import build_segmenter, seg_task
from graft_common.checkpoint import save_weights
from graft_common.errors import InputError

SMALL = SegSettings(size=32, widths=(8, 16, 32), batch_size=4)


@pytest.mark.parametrize("name", Networks)
def test_twenty_steps_on_eight_pictures_lower_the_loss(name):
    torch.manual_seed(0)
    network = build_segmenter(replace(SMALL, network=name, widths=(8, 16), size=16))
    images = torch.randint(0, 255, (8, 3, 16, 16), dtype=torch.uint8)
    masks = images[:, :1] > 120
    masks = nn.functional.avg_pool2d(masks.float(), 5, 1, 2) > 0.5
    loss, optimizer = seg_task().loss, torch.optim.Adam(network.parameters(), lr=3e-3)
    values = []
    for _ in range(20):
        made = network(prepared(images))
        assert made.shape == (8, 1, 16, 16)
        value = loss(made, masks.float())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.97 * values[0]


def test_the_loss_is_cross_entropy_plus_dice():
    logits = torch.randn(3, 1, 6, 5, dtype=torch.float64)
    truth = (torch.rand(3, 1, 6, 5) > 0.5).double()
    p = logits.sigmoid()
    entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    dice = 1 - 2 * (p * truth).sum(dim=(1, 2, 3)) / (p.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(seg_task().loss(logits, truth), entropy + dice.mean(), rtol=1e-5, atol=1e-5)


def test_overlap_of_known_masks():
    truth, said = torch.zeros(4, 1, 10, 10, dtype=torch.bool), torch.zeros(4, 1, 10, 10, dtype=torch.bool)
    truth[0, 0, :4] = said[0, 0, 2:6] = True  # 40 and 40 pixels, 20 shared
    truth[1, 0, :5] = True
    said[2] = True
    truth[2, 0, 0, 0] = True
    made = overlap(said, truth)
    np.testing.assert_allclose(made["dice"], [40 / 80, 0, 2 / 101, 1], atol=1e-6)
    np.testing.assert_allclose(made["iou"], [20 / 60, 0, 1 / 100, 1], atol=1e-6)


def test_trivial_masks():
    y, x = np.mgrid[:64, :64]
    one = (y - 20) ** 2 + (x - 30) ** 2 <= 150
    truth = torch.from_numpy(np.stack([one, one.T]))[:, None]
    made = trivial_masks(truth)
    assert made["all lesion"].all() and not made["nothing"].any()
    disc = made["centred disc"]
    assert abs(float(disc.double().mean() / truth.double().mean()) - 1) < 0.03
    assert torch.equal(disc, disc.flip(2)) and torch.equal(disc, disc.flip(3)) and torch.equal(disc[0], disc[1])
    area = float(truth[0].double().mean())
    np.testing.assert_allclose(overlap(made["all lesion"], truth)["dice"], 2 * area / (1 + area), atol=1e-6)
    assert overlap(made["nothing"], truth)["dice"].tolist() == [0, 0]


@pytest.mark.parametrize("size", [32, 64, 128, 224])
@pytest.mark.parametrize("name", HEADS)
def test_classifiers_fit_small_pictures_and_are_torchvisions_own_above(name, size):
    with torch.device("meta"):
        network = _built(name, size, 7).eval()
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
        own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
        if size == 224:
            published = getattr(models, name.replace("-", "_"))().eval().state_dict()
            head = HEADS[name] + "."
            assert own.keys() == published.keys()
            assert all(own[k] == tuple(v.shape) for k, v in published.items() if not k.startswith(head))
    seen = []
    if name == "resnet18":
        network.layer4.register_forward_hook(lambda m, i, o: seen.append(o.shape[-1]))
        network(torch.zeros(1, 3, size, size, device="meta"))
        assert seen == [4 if size < 224 else 7] and stem_stride(size) * 8 * seen[0] == size


def test_published_weights_fill_everything_but_the_head(tmp_path):
    torch.manual_seed(0)
    published = models.resnet18().state_dict()
    save_weights(tmp_path / "resnet18.safetensors", published, {})
    made = build_classifier(ClsSettings(weights=tmp_path / "resnet18.safetensors"), ("MEL", "NV", "BCC")).state_dict()
    assert made["fc.weight"].shape == (3, 512)
    assert all(torch.equal(v, published[k]) for k, v in made.items() if not k.startswith("fc."))
    with pytest.raises(InputError, match="is not torchvision's densenet121"):
        build_classifier(ClsSettings(network="densenet121", weights=tmp_path / "resnet18.safetensors"), ("MEL", "NV"))


def test_densenets_published_names_are_the_older_modules():
    assert _renamed("features.denseblock1.denselayer2.norm.1.weight") == "features.denseblock1.denselayer2.norm1.weight"
    for name in ("features.norm5.weight", "features.conv0.weight", "features.denseblock1.denselayer2.conv2.weight"):
        assert _renamed(name) == name


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "pickle"])
def test_bad_weight_files_are_refused(tmp_path, kind):
    path = tmp_path / ("a file ü.pth" if kind == "pickle" else "a file ü.safetensors")
    if kind == "text":
        path.write_text("not weights")
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"--weights .*a file"):
        read_tensors(path, "--weights")


class Mine(nn.Module):
    """A stranger's segmenter."""

    def __init__(self, wide: int = 4, channels: int = 1) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, channels, wide - 1, padding=1)

    def forward(self, x):
        return self.net(x)


class Two(Mine):
    """One that returns a list."""

    def forward(self, x):
        return [self.net(x)]


@pytest.fixture
def strangers(monkeypatch):
    """This file as a module that --network can name."""
    import sys
    import types

    module = types.ModuleType("strangers_nets")
    module.Mine, module.Two = Mine, Two
    monkeypatch.setitem(sys.modules, "strangers_nets", module)


def test_a_strangers_class_is_called_with_its_arguments(strangers):
    made = build_segmenter(replace(SMALL, network="strangers_nets:Mine", network_args='{"wide": 4}', widths=()))
    assert isinstance(made, Mine) and made.training


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("strangers_nets:Mine", '{"deep": 4}', "failed with --network-args"),
        ("strangers_nets:Mine", '{"channels": 2}', r"gives \(2, 2, 32, 32\)"),
        ("strangers_nets:Two", "{}", "gives list"),
        ("strangers_nets:None_", "{}", "cannot be imported"),
        ("no_such_module_x:A", "{}", "PYTHONPATH"),
        (":A", "{}", "cannot be imported"),
    ],
)
def test_a_strangers_class_that_does_not_fit_is_refused(strangers, name, args, says):
    with pytest.raises(InputError, match=says):
        build_segmenter(replace(SMALL, network=name, network_args=args))


@pytest.mark.parametrize(
    ("kind", "changes", "flag"),
    [
        (SegSettings, {"network": "resnet"}, "--network resnet"),
        (SegSettings, {"network_args": "{"}, "--network-args"),
        (SegSettings, {"network_args": "[1]"}, "--network-args"),
        (SegSettings, {"network_args": '{"a": 1}'}, "--network-args"),
        (SegSettings, {"widths": (16,)}, "--widths 16"),
        (SegSettings, {"widths": (16, 0)}, "--widths 16 0"),
        (SegSettings, {"network": "segresnet", "widths": (12, 24)}, "--widths 12 24"),
        (SegSettings, {"network": "segresnet", "widths": (16, 24)}, "--widths 16 24"),
        (SegSettings, {"network": "segformer", "widths": (8, 20)}, "--widths 8 20"),
        (SegSettings, {"size": 100}, "--size 100"),
        (SegSettings, {"size": 16}, "--size 16"),
        (SegSettings, {"size": 8}, "--size 8"),
        (SegSettings, {"epochs": 0}, "--epochs 0"),
        (SegSettings, {"batch_size": 0}, "--batch-size 0"),
        (SegSettings, {"patience": 0}, "--patience 0"),
        (SegSettings, {"steps_per_epoch": 0}, "--steps-per-epoch 0"),
        (SegSettings, {"learning_rate": 0.0}, "--learning-rate 0.0"),
        (SegSettings, {"learning_rate": math.nan}, "--learning-rate nan"),
        (SegSettings, {"seed": -1}, "--seed -1"),
        (ClsSettings, {"momentum": 1.0}, "--momentum 1.0"),
        (ClsSettings, {"size": 24}, "--size 24"),
        (ClsSettings, {"network": "vit-b-16", "size": 100}, "--size 100"),
        (ClsSettings, {"weights": __import__("pathlib").Path("a.pth"), "size": 64}, "--weights a.pth"),
    ],
)
def test_settings_that_cannot_work_are_named(kind, changes, flag):
    with pytest.raises(InputError, match=flag):
        kind(**changes).check()


def test_the_papers_settings_are_the_defaults():
    seg, cls = SegSettings(), ClsSettings()
    assert (seg.batch_size, seg.learning_rate, seg.patience, seg.size, seg.monitor) == (16, 1e-3, 20, 256, "accuracy")
    assert (cls.batch_size, cls.learning_rate, cls.momentum, cls.patience, cls.size) == (128, 1e-3, 0.9, 10, 224)
    seg.check()
    cls.check()


def test_one_class_is_no_task():
    with pytest.raises(InputError, match="two classes"):
        build_classifier(ClsSettings(size=64), ("NV",))


def test_samples_join_take_and_know_their_content():
    a = Samples(("x", "y"), torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    both = a.joined(a.take([1]))
    assert both.ids == ("x", "y", "synthetic/y") and both.images.shape == (3, 3, 4, 4) and len(both) == 3
    changed = replace(a, images=a.images + 1)
    assert a.digest() == replace(a).digest() != changed.digest() != replace(a, ids=("x", "z")).digest()
    with pytest.raises(ValueError, match="differ"):
        a.joined(replace(a, masks=None))


def test_prepared_is_torchvisions_normalisation():
    from torchvision.transforms import v2

    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    plan = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    torch.testing.assert_close(prepared(images), plan(images))


def test_outputs_come_from_evaluation_mode_and_leave_the_mode():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    made = outputs(network, images, torch.device("cpu"), 2)
    assert network.training and not made.requires_grad
    torch.testing.assert_close(made, prepared(images), rtol=1e-4, atol=1e-4)  # fresh statistics are 0 and 1
