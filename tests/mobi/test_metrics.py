"""Measures against numbers by hand: truth, trivial answers, and what lies between."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from graft_common.errors import InputError
from graft_common.metrics import features
from graft_common.rangeview import Camera, CameraCrop, camera_pixels
from mobi import metrics
from mobi.config_study import ARM_NAMES, ArmName
from mobi.realism import Backbones, patch_features
from mobi.summary import difference, findings, frechets, markdown, range_ratio, table
from mobi.trial import ARMS

CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
K = np.array([[100.0, 0, 40], [0, 100.0, 30], [0, 0, 1]])
FORWARD = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # lidar x right, y forward, z up


def test_hole_index() -> None:
    rng = np.random.default_rng(0)
    truth, where = rng.random((200, 200)) < 0.3, rng.random((200, 200)) < 0.7
    right = metrics.hole_index(truth, truth, where)
    assert right == {"recall": 1, "specificity": 1, "index": 1, "iou": 1}
    for trivial in (np.ones_like(truth), np.zeros_like(truth)):
        assert metrics.hole_index(trivial, truth, where)["index"] == 0
    chance = metrics.hole_index(rng.random((200, 200)) < 0.4, truth, where)
    assert abs(chance["index"] or 0) < 0.03 and metrics.hole_index(~truth, truth, where)["index"] == -1
    # what lies outside the hole does not count
    assert metrics.hole_index(truth | ~where, truth, where) == right
    some = np.array([True, True, True, False, False, False]), np.array([True, True, False, False, False, True])
    found = metrics.hole_index(some[0], some[1], np.ones(6, bool))
    assert found["recall"] == pytest.approx(2 / 3) and found["specificity"] == pytest.approx(2 / 3)
    assert found["index"] == pytest.approx(1 / 3) and found["iou"] == pytest.approx(2 / 4)
    assert metrics.hole_index(truth, truth, np.zeros_like(where))["index"] is None


def test_drawn() -> None:
    blank = torch.zeros(3, 4, 4)
    painted, hole = blank.clone(), np.ones((4, 4), bool)
    painted[1, 0, 0], painted[2, 0, 1], painted[0, 0, 2] = 16.5 / 127.5, -16.5 / 127.5, 15.5 / 127.5
    painted[0, 0, 3], hole[0, 3] = 1, False
    assert metrics.drawn(painted, blank, hole).nonzero()[1].tolist() == [0, 1]
    assert not metrics.drawn(torch.full_like(blank, 3.0), torch.ones_like(blank), hole).any()  # beyond white is white


def test_removal() -> None:
    before, empty = torch.full((3, 4, 4), 0.8), torch.zeros(3, 4, 4)
    inside = np.zeros((4, 4), bool)
    inside[1:3] = True
    for share in (0.0, 0.25, 1.0):
        removed = empty + share * (before - empty)
        removed[:, 0] = 9  # outside the silhouette
        assert metrics.left_over(removed, empty, before, inside) == pytest.approx(share)
    assert metrics.left_over(empty, empty, empty, inside) is None
    surface, beyond = np.full(6, 10.0), np.array([20.0, 20, 20, 20, np.inf, 60])
    predicted, hit = np.array([20.4, 19.9, 10.05, np.inf, 20, 20]), np.array([True] * 6)
    found = metrics.uncovered(predicted, surface, beyond, hit, 54.0)
    # of four rays with something behind, one stays at the object and one is lost
    assert found["behind"] == pytest.approx(2 / 4) and found["behind_error"] == pytest.approx(0.25)


def test_crop_pixels_agree_with_the_picture() -> None:
    """A point that is alone in a picture of one bright pixel lands on the crop's brightest one."""
    camera = Camera(K, FORWARD, 80, 60)
    rng, crop = np.random.default_rng(2), CameraCrop(10, 6, 40, 50)
    for _ in range(20):
        column, row = rng.integers(12, 48), rng.integers(8, 54)
        depth = float(rng.uniform(5, 40))
        point = np.array([[(column - 40) * depth / 100, depth, -(row - 30) * depth / 100]])
        image = np.zeros((60, 80, 3), np.uint8)
        image[row, column] = 255
        shown = camera_pixels(image, crop, 128)[0]
        at, seen = metrics.crop_pixels(point, camera, crop, 128)
        bright = np.array(np.unravel_index(int(shown.argmax()), (128, 128)))
        assert seen.all() and np.abs(at[0] - bright).max() <= 1
    at, seen = metrics.crop_pixels(np.array([[0.0, -5, 0], [90, 5, 0]]), camera, crop, 128)
    assert not seen.any()


def test_consistency() -> None:
    camera, crop = Camera(K, FORWARD, 80, 60), CameraCrop(0, 0, 60, 60)

    def at(row: int, column: int) -> list[float]:
        return [(column - 40) / 10, 10.0, -(row - 30) / 10]

    silhouette = np.zeros((60, 60), bool)
    silhouette[20:30, 20:30] = True
    returns = np.array([at(25, 25), at(30, 30), at(32, 25), at(5, 5)])  # in it, one pixel beside it, out of it
    rays = np.array([at(21, 21), at(29, 29), at(25, 22), at(40, 40)])
    found = metrics.consistency(silhouette, returns, rays, np.array([True, False, True, True]), camera, crop)
    assert found["precision"] == pytest.approx(2 / 4) and found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    none = metrics.consistency(np.zeros_like(silhouette), returns[:0], rays, np.zeros(4, bool), camera, crop)
    assert none == {"precision": None, "recall": None, "f1": None}
    lost = metrics.consistency(silhouette, returns[:0], rays, np.zeros(4, bool), camera, crop)
    assert lost["recall"] == 0 and lost["f1"] == 0


def _row(k: int, **scores: dict[str, float]) -> dict:
    vector = np.random.default_rng(k).normal(size=4).tolist()
    return {"scores": scores, "features": {"truth": vector, "same": vector, "moved": [v + 2 for v in vector]}}


def test_tables() -> None:
    rows = [_row(k, a={"x": float(k), "yaw_gap": 10.0 if k < 6 else 170.0, "found": float(k < 4)}) for k in range(8)]
    cells = table([{**row, "scores": {**row["scores"], "same": {}, "moved": {}}} for row in rows])
    assert cells["a"]["x"]["mean"] == 3.5 and cells["a"]["x"]["n"] == 8
    assert cells["a"]["yaw_near"]["mean"] == 0.75 and cells["a"]["yaw_flipped"]["mean"] == 0.25
    assert cells["a"]["yaw_median"]["mean"] == 10 and cells["a"]["found"]["mean"] == 0.5
    found = frechets(rows)
    assert found["same"]["mean"] == pytest.approx(0, abs=1e-9)
    assert found["moved"]["mean"] == pytest.approx(4 * 2**2)  # equal spread: the squared shift of the mean
    low, high = found["moved"]["ci95"]
    assert low <= 16 <= high


def test_arms_have_one_list_of_names() -> None:
    assert set(get_args(ArmName)) == set(ARMS) > set(ARM_NAMES)
    assert all(ARMS[name].painter == "plain" for name in ("replacement", "free insertion", "removal"))
    extra = set(ARMS) - set(ARM_NAMES)
    assert len(extra) == 4 and {ARMS[name].painter for name in extra} == {"no box", "apart"}


def test_detector_of_reinserted_objects_less_original() -> None:
    """Pairs alone count: the sixth object was not found after the edit."""
    rows = [_row(k, truth={"found": 1.0, "ate": 0.1 * k}) for k in range(6)]
    for k, row in enumerate(rows):
        row["scores"]["same reference"] = {"found": 1.0, "ate": 0.1 * k + 0.2} if k < 5 else {"found": 0.0}
        row["features"] = {"truth": [0.0]}
    cells = table(rows)["same reference less original"]
    assert cells["ate"]["n"] == 5 and cells["ate"]["mean"] == pytest.approx(0.2) == cells["ate"]["ci95"][0]
    assert cells["found"]["mean"] == pytest.approx(-1 / 6) and set(cells) == {"found", "ate"}


def test_ablations_of_replacement_and_insertion_are_held_against_their_own_arm() -> None:
    rows = [
        _row(k, **{"replacement": {"lidar_index": 0.7 + 0.01 * k, "joint_f1": 0.9},
                   "replacement, no box": {"lidar_index": 0.5}, "replacement, no joint attention": {"joint_f1": 0.95}})
        for k in range(6)
    ]  # fmt: skip
    cells = table([{**r, "features": {"truth": r["features"]["truth"]}} for r in rows])
    asked = {f["what"]: f["holds"] for f in findings(rows, "car", cells)}
    assert asked["replacement: lidar index with the box above without"] is True
    assert asked["replacement: consistency F1 above that of no joint attention"] is False


def test_frechet_distances_are_taken_on_the_named_network(tmp_path: Path) -> None:
    """CLIP's image embeddings as they are, under CLIP's name; the tiny classifier's features by default."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    vision = text | {"image_size": 32, "patch_size": 16}
    vision.pop("vocab_size")
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    folder = tmp_path / "clip-vit-narrow"
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    pictures = 2 * torch.rand(3, 3, 32, 32) - 1
    found = patch_features(pictures, str(folder))
    mean, spread = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_SPREAD))
    with torch.no_grad():
        want = model.get_image_features(pixel_values=((pictures + 1) / 2 - mean) / spread).pooler_output
    np.testing.assert_allclose(found, want.numpy(), atol=1e-5)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.01)
    assert Backbones(clip=str(folder)).names["fid"] == "fid_clip_vit_narrow" and Backbones().names["fid"] == "fid_tiny"
    np.testing.assert_array_equal(patch_features(pictures, "tiny"), features(pictures))
    with pytest.raises(InputError, match=r"--clip .*cannot be loaded"):
        patch_features(pictures, str(tmp_path))


def test_comparisons_are_paired() -> None:
    rows = [_row(k, a={"x": k + 0.1}, b={"x": float(k)}) for k in range(9)] + [_row(9, a={"x": 1000.0})]
    apart = difference(rows, ("a", "x"), ("b", "x"))
    assert apart is not None and apart["mean"] == pytest.approx(0.1) and apart["n"] == 9
    assert difference(rows, ("a", "x"), ("c", "x")) is None
    name = "range autoencoder"
    rows = [_row(k, **{name: {"image VAE: depth_object": 6.0 + k, "+ adapters: depth_object": 1.0}}) for k in range(5)]
    ratio = range_ratio(rows)
    assert ratio is not None and ratio["mean"] == pytest.approx(8) and ratio["ci95"][0] >= 6


@pytest.mark.parametrize(
    ("error", "holds", "reached"), [(0.2, True, True), (0.45, True, False), (0.525, False, False), (0.6, False, False)]
)
def test_promises(error: float, holds: bool, reached: bool) -> None:
    tracked, middle = "tracked reference", "mid-depth"
    rows = [_row(k, **{tracked: {"depth_error": error}, middle: {"depth_error": 0.5 + 0.01 * k}}) for k in range(6)]
    cells = table([{**r, "features": {"truth": r["features"]["truth"]}} for r in rows])
    by_name = {f["what"]: f for f in findings(rows, "car", cells)}
    asked = by_name[f"{tracked}: depth error (m)"]
    assert asked["holds"] is holds and asked["aim_reached"] is reached and asked["wanted"] == "<= 0.5"
    assert by_name[f"{tracked}: depth error less mid-depth's (m)"]["holds"] is (error < 0.5)
    # where most cases have no number, a good one of the rest keeps no promise
    lost = [r if k < 2 else {**r, "scores": {tracked: {}, middle: r["scores"][middle]}} for k, r in enumerate(rows)]
    few = {f["what"]: f for f in findings(lost, "car", table([{**r, "features": {"truth": [0.0]}} for r in lost]))}
    assert not any(f["holds"] or f["aim_reached"] for f in few.values()) and few[f"{tracked}: depth error (m)"]["value"]["n"] == 2
    pedestrian = {f["what"]: f for f in findings(rows, "pedestrian", cells)}[f"{tracked}: depth error (m)"]
    assert pedestrian["wanted"] == "<= 0.2" and pedestrian["holds"] is (error <= 0.2)


def test_what_a_filled_box_reaches_is_no_success() -> None:
    """Indices above the floors hold as such, and are held against the solid box's."""
    for gain, holds in ((0.0, False), (0.1, True)):
        own = [{key: 0.5 + gain + 0.01 * k for key in ("camera_index", "lidar_index")} for k in range(6)]
        box = [{key: 0.5 + 0.01 * k for key in ("camera_index", "lidar_index")} for k in range(6)]
        rows = [_row(k, **{"tracked reference": own[k], "replacement": own[k], "solid box": box[k]}) for k in range(6)]
        cells = table([{**r, "features": {"truth": r["features"]["truth"]}} for r in rows])
        asked = {f["what"]: f["holds"] for f in findings(rows, "pedestrian", cells)}
        for key in ("camera index", "lidar index"):
            assert asked[f"tracked reference: {key}"] and asked[f"tracked reference: {key} above the solid box's"] is holds
            assert f"replacement: {key} above the solid box's" not in asked


def test_judges_are_held_against_true_renders() -> None:
    rows = [_row(k, truth={"yaw_gap": 3.0, "found": 1.0, "ate": 0.1, "aoe": 0.3}) for k in range(6)]
    cells = table([{**r, "features": {"truth": r["features"]["truth"]}} for r in rows])
    asked = {f["what"].split("renders: ")[1]: f["holds"] for f in findings(rows, "car", cells)}
    assert asked.pop("AOE (rad)") is False and all(asked.values()) and len(asked) == 4
    assert findings(rows, "pedestrian", cells) == []
    text = markdown({"car": cells}, {"car": findings(rows, "car", cells)})
    assert "| detector on true renders: AOE (rad) | 0.300 [0.300, 0.300] | 6 | <= 0.1745 | no |  |" in text
