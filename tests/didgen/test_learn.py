"""The loop of the judges: which rows, resume bit for bit, early stopping, and what a checkpoint refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from didgen import learn as loop
from didgen.classifier import train_classifier
from didgen.config_study import ClsSettings, SegSettings
from didgen.learn import LAST, Task, augment, batch_rows, learn, outputs
from didgen.samples import Samples
from didgen.segmenter import build_segmenter, train_segmenter
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError

SMALL = SegSettings(
    size=32, widths=(4, 8), batch_size=4, epochs=4, patience=9, learning_rate=3e-3, augmentation="classical", monitor="dice"
)


def discs(n: int, size: int = 32, seed: int = 0) -> Samples:
    """Dark discs (label 0) and dark reddish discs (label 1) on noise, with their masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    images, masks = rng.integers(150, 250, (n, 3, size, size)).astype(np.uint8), np.zeros((n, 1, size, size), bool)
    for i in range(n):
        cy, cx = rng.integers(size // 4, 3 * size // 4, 2)
        masks[i, 0] = (y - cy) ** 2 + (x - cx) ** 2 < (size / 5) ** 2
        images[i][:, masks[i, 0]] = 60
        images[i, 0][masks[i, 0]] += np.uint8(120 * (i % 2))
    labels = torch.arange(n) % 2
    return Samples(tuple(map(str, range(n))), torch.from_numpy(images), torch.from_numpy(masks), labels, ("MEL", "NV"))


class Toy(nn.Module):
    """A network with dropout, batch normalisation and one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Conv2d(4, 1, 1))

    def forward(self, x):
        return self.net(x)


def toy_run(folder, data, *, epochs=4, resume=False, stop_after=99, optimizer=torch.optim.Adam, scores=None, **changes):
    torch.manual_seed(0)
    network = Toy()
    torch.rand(3 * resume)  # what else the process has drawn must not matter
    config = replace(SMALL, epochs=epochs, **changes)
    seen = []
    given = iter(scores or [])

    def score(net, samples, device, batch):
        if scores is not None:
            return next(given)
        return -float(nn.functional.mse_loss(outputs(net, samples.images, device, batch), samples.masks.float()))

    task = Task(loss=nn.BCEWithLogitsLoss(), targets=lambda s: s.masks.float(), score=score)
    steps = optimizer(network.parameters(), lr=1e-2)
    done = learn(
        network, steps, task, data, data, config, folder, {"network": "toy"}, resume=resume,
        stop=lambda: len(seen) >= stop_after, on_epoch=seen.append,
    )  # fmt: skip
    return network, done


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tmp_path, optimizer):
    data = discs(10)
    whole, first = toy_run(tmp_path / "a", data, optimizer=optimizer)
    toy_run(tmp_path / "b", data, optimizer=optimizer, stop_after=2)
    again, second = toy_run(tmp_path / "b", data, optimizer=optimizer, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    one, two = load_weights(tmp_path / "a" / LAST), load_weights(tmp_path / "b" / LAST)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    drop = [{k: v for k, v in line.items() if k != "seconds"} for line in first.history]
    assert drop == [{k: v for k, v in line.items() if k != "seconds"} for line in second.history]
    assert drop[-1]["loss"] < drop[0]["loss"]


def test_training_leaves_the_global_generator_where_it_was(tmp_path):
    torch.manual_seed(5)
    Toy()  # toy_run seeds by itself and builds one
    torch.manual_seed(0)
    Toy()
    wanted = torch.rand(3)
    toy_run(tmp_path, discs(6), epochs=1)
    assert torch.equal(torch.rand(3), wanted)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path):
    scores = [0.1, 0.9, 0.9, 0.5, 0.2, 0.95]
    network, done = toy_run(tmp_path / "a", discs(6), epochs=6, scores=scores, patience=3)
    assert (done.best_epoch, done.best_score, done.ended, len(done.history)) == (2, 0.9, "early stopping", 5)
    second, _ = toy_run(tmp_path / "b", discs(6), epochs=2, scores=scores)
    assert torch.equal(network.net[0].weight, second.net[0].weight)  # the weights of epoch 2, not of epoch 5
    # gone on with, it is over at once
    _, same = toy_run(tmp_path / "a", discs(6), epochs=6, scores=[], patience=3, resume=True)
    assert same == done


def test_every_picture_is_seen_equally_often_in_whole_batches():
    rows = torch.stack([batch_rows(7, 3, 0, step) for step in range(14)])  # 42 = 6 passes of 7
    assert rows.shape == (14, 3)
    assert rows.flatten().bincount().tolist() == [6] * 7
    assert sorted(rows.flatten()[:7].tolist()) == list(range(7))
    assert not torch.equal(rows, torch.stack([batch_rows(7, 3, 1, step) for step in range(14)]))
    assert batch_rows(2, 2, 0, 5).shape == (2,)


def test_augmentation_moves_picture_and_mask_together_and_moves_at_all():
    data = discs(16)
    torch.manual_seed(0)
    images, masks = augment(data.images, data.masks.float(), spatial=True)
    assert images.dtype == torch.uint8 and set(masks.unique().tolist()) <= {0.0, 1.0}
    inside = torch.stack([i[2][m[0] > 0].float().mean() for i, m in zip(images, masks, strict=True) if m.any()])
    outside = torch.stack([i[2][m[0] == 0].float().mean() for i, m in zip(images, masks, strict=True)])
    assert inside.max() < 110 < 150 < outside.min()  # the discs stay dark under their own masks
    moved = (masks.bool() != data.masks).flatten(1).any(dim=1)
    assert moved.sum() >= 14
    torch.manual_seed(0)
    again, _ = augment(data.images, data.masks.float(), spatial=True)
    assert torch.equal(images, again)
    _, labels = augment(data.images, data.labels, spatial=False)
    assert torch.equal(labels, data.labels)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 3}, "--batch-size 3"),
        ({"learning_rate": 1e-2}, "--learning-rate 0.01"),
        ({"seed": 1}, "--seed 1"),
        ({"augmentation": "none"}, "--augmentation none"),
        ({"network": "attention-unet"}, "--network attention-unet"),
        ({"widths": (8, 16)}, "--widths"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(segmented, changes, says):
    data, folder = segmented
    with pytest.raises(InputError, match=says):
        train_segmenter(data, data, replace(SMALL, epochs=2, **changes), folder, resume=True)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    data, folder = discs(6), tmp_path_factory.mktemp("run")
    train_segmenter(data, data, replace(SMALL, epochs=1), folder)
    return data, folder


def test_other_pictures_are_refused_and_so_is_a_second_start(segmented):
    data, folder = segmented
    with pytest.raises(InputError, match="other pictures"):
        train_segmenter(discs(6, seed=1), data, SMALL, folder, resume=True)
    with pytest.raises(InputError, match="--resume"):
        train_segmenter(data, data, SMALL, folder)
    train_segmenter(data, data, replace(SMALL, epochs=2, patience=5), folder, resume=True)  # longer is no other run


@pytest.mark.parametrize("damage", ["strange", "short", "renamed"])
def test_a_damaged_checkpoint_is_refused(segmented, tmp_path, damage):
    data, folder = segmented
    tensors, config = load_weights(folder / LAST), read_config(folder / LAST)
    path = tmp_path / LAST
    if damage == "strange":
        save_weights(path, {"a": torch.zeros(1)}, {"step": 3})
    elif damage == "renamed":
        save_weights(path, {k.replace("net.model", "net.other"): v for k, v in tensors.items()}, config)
    else:
        path.write_bytes((folder / LAST).read_bytes()[:1000])
    with pytest.raises(InputError, match=LAST):
        train_segmenter(data, data, SMALL, tmp_path, resume=True)


def test_a_loss_that_explodes_is_the_users_to_mend(tmp_path):
    data = discs(6)
    with pytest.raises(InputError, match="--learning-rate"):
        train_segmenter(data, data, replace(SMALL, learning_rate=1e30, augmentation="none", epochs=3), tmp_path)


def test_checkpoints_are_written_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    written = []
    monkeypatch.setattr(loop, "_save", lambda last, *rest: written.append(last))
    toy_run(tmp_path, discs(6), epochs=3)
    assert len(written) == 3


def test_a_tiny_classifier_learns_the_discs_and_resumes(tmp_path, monkeypatch):
    from didgen import classifier

    def small(name, size, classes):  # the real ones take seconds a step
        return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, classes))

    monkeypatch.setattr(classifier, "_built", small)
    data = replace(discs(16), masks=None)
    plan = ClsSettings(size=32, batch_size=8, epochs=10, patience=20, learning_rate=0.1)
    whole, done = train_classifier(data, data, plan, tmp_path / "a")
    assert done.history[-1]["loss"] < 0.7 * done.history[0]["loss"] and done.best_score >= 0.9
    assert (whole.classes, whole.counts) == (("MEL", "NV"), (8, 8))
    train_classifier(data, data, replace(plan, epochs=4), tmp_path / "b")
    again, same = train_classifier(data, data, plan, tmp_path / "b", resume=True)
    assert same.best_epoch == done.best_epoch
    assert all(torch.equal(v, again.network.state_dict()[k]) for k, v in whole.network.state_dict().items())
    with pytest.raises(InputError, match="--network vgg16"):
        train_classifier(data, data, replace(plan, network="vgg16"), tmp_path / "b", resume=True)


def test_equal_seeds_give_equal_networks_and_leave_the_generator():
    torch.manual_seed(3)
    one = build_segmenter(SMALL)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)
    two, other = build_segmenter(SMALL), build_segmenter(replace(SMALL, seed=1))
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)
