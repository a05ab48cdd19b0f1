"""The studying verbs: what they write, what the shared walk equals, and what they refuse."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from graft_common import bundle as weights
from graft_common.checkpoint import load_weights, read_config
from graft_common.errors import InputError
from graft_common.inversion import dpm_grid
from tficomp import evaluate, score
from tficomp.ablate import compose_settings, run_ablate
from tficomp.config import MethodConfig
from tficomp.config_study import AblateConfig, BaselineConfig, EvaluateConfig, InvertConfig, as_method
from tficomp.denoise import Denoiser
from tficomp.evaluate import as_csv, method_names, read_result, run_evaluate
from tficomp.inputs import read_inputs
from tficomp.invert import round_trip, run_invert
from tficomp.manifest import read_manifest
from tficomp.pipeline import compose_batch
from tficomp.study import run_baseline_verb

FLAT = {"lpips_bg_tiny", "lpips_fg_tiny", "clip_image_tiny", "clip_text_tiny"}


@pytest.fixture
def manifest(tmp_path, sample_files):
    rows = []
    for i in range(3):
        paths = sample_files(tmp_path / "in" / f"s{i}", seed=i)
        rows.append({"id": f"s{i}", "prompt": "a tumor", "seed": i} | {k: f"s{i}/{p.name}" for k, p in paths.items()})
    path = tmp_path / "in" / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def settings(random_bundle):
    return {"weights": str(random_bundle), "steps": 4, "context": 0.0, "guidance": 2.0, "batch_size": 2, "json": True}


@pytest.fixture
def plain_scores(monkeypatch):
    """Metrics without the judges' weights: the pixel ones."""
    from graft_common import metrics

    def fixed(value):
        return lambda a, *rest: torch.full((len(a),), value)

    monkeypatch.setattr(metrics, "lpips", lambda a, b, *rest: (a - b).square().mean(dim=(1, 2, 3)))
    monkeypatch.setattr(metrics, "image_similarity", fixed(50.0))
    monkeypatch.setattr(metrics, "text_similarity", fixed(30.0))


def test_baseline_writes_what_batch_writes_and_resumes(manifest, settings, tmp_path):
    out = tmp_path / "out"
    config = BaselineConfig(manifest=manifest, method="vae", out=out, **settings)
    record = run_baseline_verb(config, ["graft-tficomp", "baseline"])
    for i in range(3):
        names = {p.name for p in (out / f"s{i}").iterdir()}
        assert names == {"result.png", "copy_paste.png", "lesion_mask.png", "panel.png", "run.json"}
        with Image.open(out / f"s{i}" / "result.png") as made:
            assert made.size == (48, 40)
    assert record["outputs"] == [f"s{i}/result.png" for i in range(3)] and record["measures"]["network_calls"] == 0
    with pytest.raises(InputError, match="--resume"):
        run_baseline_verb(config, [])
    with pytest.raises(InputError, match="other rows or settings"):  # another method's pictures among these
        run_baseline_verb(replace(config, method="sdedit", resume=True), [])
    before = (out / "s1" / "result.png").read_bytes(), (out / "s0" / "run.json").stat().st_mtime_ns
    for name in ("run.json", "result.png"):  # s0 is of the same group: computed again, not written again
        (out / "s1" / name).unlink()
    run_baseline_verb(replace(config, resume=True, batch_size=3), [])  # the first run's groups are kept
    assert ((out / "s1" / "result.png").read_bytes(), (out / "s0" / "run.json").stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    "changes", [{}, {"memory": "carry"}, {"states": "inversion"}, {"rectify": "after", "tau_mode": "count"}]
)
def test_settings_that_share_a_walk_give_what_compose_gives(manifest, settings, changes):
    samples = [read_inputs(row.sources) for row in read_manifest(manifest)[:2]]
    bundle = weights.load(settings["weights"])
    base = MethodConfig(weights=settings["weights"], steps=6, context=0.0, guidance=2.0, **changes)
    several = [replace(base, t_start=s, tau=t) for s, t in ((2, 1), (4, 1), (4, 3), (6, 2))]
    made, walk = compose_settings(samples, several, bundle)
    for one, results in zip(several, made, strict=True):
        for a, b in zip(results, compose_batch(samples, one, bundle), strict=True):
            np.testing.assert_allclose(a.frame_pixels, b.frame_pixels, atol=2e-3)
    assert walk.round_trip().shape == (4,) and (walk.round_trip() > 0).all()
    different = [np.abs(made[0][0].frame_pixels - other[0].frame_pixels).max() for other in made[1:]]
    assert min(different) > 1e-3


def test_settings_that_mean_the_same_share_their_frames(manifest, settings):
    samples = [read_inputs(read_manifest(manifest)[0].sources)]
    bundle = weights.load(settings["weights"])
    base = MethodConfig(steps=4, context=0.0, t_start=3, tau=1)
    counter = Denoiser(bundle, dpm_grid(bundle.alphas_cumprod, 4))
    alike = [base, replace(base, tau=2, tau_mode="count"), replace(base, paste_back=True), replace(base, tau=2)]
    made, _ = compose_settings(samples, alike, bundle, counter)
    assert counter.calls == 8 + 3 + 3  # level 1 = count 2 at T' = 3, and paste-back needs no call
    assert np.array_equal(made[0][0].frame_pixels, made[1][0].frame_pixels)
    assert not np.array_equal(made[0][0].frame_pixels, made[3][0].frame_pixels)
    users = samples[0].lesions[0].user_mask
    assert np.array_equal(made[2][0].pixels[:, ~users], samples[0].background.pixels[:, ~users])
    assert not np.array_equal(made[0][0].pixels[:, ~users], samples[0].background.pixels[:, ~users])


def test_settings_that_need_another_walk_are_refused(manifest, settings):
    bundle = weights.load(settings["weights"])
    with pytest.raises(ValueError, match="order"):
        compose_settings([], [MethodConfig(order=1), MethodConfig(order=2)], bundle)


def test_ablate_writes_grid_and_table(manifest, settings, tmp_path, plain_scores):
    out = tmp_path / "ablate"
    config = AblateConfig(manifest=manifest, t_start=(1, 3), tau=(1, 2), out=out, **settings)
    record = run_ablate(config, ["graft-tficomp", "ablate"])
    content = json.loads((out / "table.json").read_text())
    assert list(content["compared"]) == ["T'=1 tau=1", "T'=3 tau=1", "T'=3 tau=2"]  # tau = 2 does not fit T' = 1
    assert content["n"] == 3 and set(content["metrics"]) >= FLAT | {"psnr_bg"}
    lines = (out / "table.md").read_text().splitlines()
    assert len(lines) == 5 and lines[2].startswith("| T'=1 tau=1 | 0.")
    with Image.open(out / "panel.png") as sheet:
        assert sheet.size[0] > 3 * 224 and sheet.size[1] > 2 * 224
    # one walk of 8 calls a group, 1 + 3 + 3 guided ones; two groups
    assert record["measures"]["network_calls"] == 2 * (8 + 7)


def test_ablate_refuses_what_no_setting_can_take(manifest, settings):
    def config(**changes):
        return AblateConfig(manifest=manifest, **settings | changes)

    for changes, said in (
        ({"t_start": (2,), "tau": (3, 4)}, "--tau 3 4: all above"),
        ({"t_start": (5,), "tau": (1,)}, "--t-start 5: must be from 0 to --steps 4"),
        ({"batch_size": 0}, "--batch-size 0"),
    ):
        with pytest.raises(InputError, match=said):
            config(**changes).settings()
    assert [(s.start, s.lowest_rectified) for s in config(t_start=(4, 2), tau=(2,)).settings()] == [(4, 2), (2, 2)]
    assert as_method(config(), t_start=2, tau=1) == replace(config(t_start=(2,), tau=(1,)).settings()[0])


def test_evaluate_compares_results_with_baselines_and_doing_nothing(manifest, settings, tmp_path, plain_scores):
    for name in ("copy-paste", "vae"):
        run_baseline_verb(BaselineConfig(manifest=manifest, method=name, out=tmp_path / name, **settings), [])
    out = tmp_path / "report"
    config = EvaluateConfig(
        manifest=manifest, results=(tmp_path / "vae", tmp_path / "copy-paste"), baselines=("copy-paste", "vae"), out=out,
        **settings,
    )  # fmt: skip
    run_evaluate(config, ["graft-tficomp", "evaluate"])
    content = json.loads((out / "metrics.json").read_text())
    assert (content["schema"], content["method"], content["results"], content["n"]) == (1, "tficomp", "vae", 3)
    others = ["copy-paste", "doing nothing", "copy-paste (computed)", "vae (computed)"]
    assert list(content["compared"]) == list(content["paired"]) == others
    nothing, stored, computed = (content["compared"][n] for n in ("doing nothing", "copy-paste", "vae (computed)"))
    assert nothing["psnr_bg"]["mean"] == 120 and nothing["lpips_bg_tiny"]["mean"] == 0
    # what was written and read again is what was computed, up to 8 bits
    assert computed["psnr_bg"]["mean"] == pytest.approx(content["metrics"]["psnr_bg"]["mean"], abs=0.1)
    direct = content["compared"]["copy-paste (computed)"]
    assert stored["lpips_fg_tiny"]["mean"] == pytest.approx(direct["lpips_fg_tiny"]["mean"], abs=1e-4)
    difference = content["paired"]["doing nothing"]["psnr_bg"]
    assert difference["mean"] == pytest.approx(content["metrics"]["psnr_bg"]["mean"] - 120)
    with (out / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 and {r["id"] for r in rows} == {"s0", "s1", "s2"}
    own = [float(r["psnr_bg"]) for r in rows if r["method"] == "vae"]
    assert np.mean(own) == pytest.approx(content["metrics"]["psnr_bg"]["mean"], rel=1e-4)


def test_copying_and_pasting_loads_no_network(manifest, settings, tmp_path, plain_scores, monkeypatch):
    """Nor does scoring it beside baselines that need none; a grey file says nothing about a network's tint."""
    from tficomp import weights as opening

    def load(config):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(opening, "load_bundle", load)
    for name in ("copy-paste", "poisson"):
        record = run_baseline_verb(BaselineConfig(manifest=manifest, method=name, out=tmp_path / name, **settings), [])
        assert record["weights"] == {} and record["measures"]["network_calls"] == 0
    with pytest.raises(InputError, match="--size 33"):
        run_baseline_verb(BaselineConfig(manifest=manifest, method="poisson", out=tmp_path / "x", size=33, **settings), [])
    config = EvaluateConfig(
        manifest=manifest, results=(tmp_path / "poisson", tmp_path / "copy-paste"), baselines=("copy-paste",),
        out=tmp_path / "report", **settings,
    )  # fmt: skip
    run_evaluate(config, [])
    content = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert "channel_spread" not in content["metrics"] and "channel_spread" not in content["compared"]["copy-paste"]
    assert content["compared"]["copy-paste (computed)"]["channel_spread"]["mean"] == 0
    assert all("channel_spread" not in pair for pair in content["paired"].values())
    with (tmp_path / "report" / "samples.csv").open() as file:
        spread = {(r["method"], r["channel_spread"]) for r in csv.DictReader(file)}
    assert ("poisson", "") in spread and ("copy-paste (computed)", "0") in spread
    with pytest.raises(AssertionError, match="weights were loaded"):
        run_baseline_verb(BaselineConfig(manifest=manifest, method="vae", out=tmp_path / "vae", **settings), [])


def test_results_are_scored_on_the_square_that_they_were_made_on(manifest, settings, tmp_path, plain_scores):
    base = {"manifest": manifest, "baselines": ("copy-paste",), "results": (tmp_path / "poisson",)} | settings
    run_baseline_verb(BaselineConfig(manifest=manifest, method="poisson", out=tmp_path / "poisson", **settings), [])
    changes = ({"context": 2.0}, {"fit": "tficon"}, {"margin": 0.5}, {"size": 64}, {"weights": "tiny-sd"})
    for number, change in enumerate(changes):
        ((name, value),) = change.items()
        with pytest.raises(InputError, match=rf"--{name} {value}: --results .*poisson was made with"):
            run_evaluate(EvaluateConfig(**base | change, out=tmp_path / f"o{number}"), [])
    record = tmp_path / "poisson" / "run.json"
    record.write_text("{")
    with pytest.raises(InputError, match=r"--results .*poisson: cannot be read as a run record"):
        run_evaluate(EvaluateConfig(**base, out=tmp_path / "o"), [])
    record.unlink()  # another tool's results
    run_evaluate(EvaluateConfig(**base, out=tmp_path / "o"), [])
    assert (tmp_path / "o" / "metrics.json").is_file()


def test_a_wrong_judge_is_refused_before_the_work(manifest, settings, monkeypatch):
    from tficomp import weights as opening

    monkeypatch.setattr(opening, "load_bundle", None)
    for kind, run in ((AblateConfig, run_ablate), (EvaluateConfig, run_evaluate)):
        more = {"results": (manifest.parent,)} if kind is EvaluateConfig else {"t_start": (2,), "tau": (1,)}
        with pytest.raises(InputError, match=r"--lpips alex\.pth: no such file"):
            run(kind(manifest=manifest, lpips="alex.pth", **more, **settings), [])


def test_evaluate_refuses_missing_and_foreign_results(manifest, settings, tmp_path):
    config = EvaluateConfig(manifest=manifest, results=(tmp_path / "none",), out=tmp_path / "o", **settings)
    with pytest.raises(InputError, match=r"has no s0/result\.png"):
        run_evaluate(config, [])
    with pytest.raises(InputError, match="--results: none given"):
        replace(config, results=()).check()
    Image.new("L", (9, 7)).save(tmp_path / "small.png")
    sample = read_inputs(read_manifest(manifest)[0].sources)
    bundle = weights.load(settings["weights"])
    with pytest.raises(InputError, match="is 9x7 but its background is 48x40"):
        read_result(sample, tmp_path / "small.png", as_method(config), bundle)


def test_sixteen_bit_results_are_read_through_their_backgrounds_window(settings, tmp_path, sample_files):
    from tficomp.inputs import Sources
    from tficomp.write import write_result

    paths = sample_files(tmp_path / "in")
    rng = np.random.default_rng(4)
    Image.fromarray(rng.integers(1000, 9000, (40, 48)).astype(np.uint16)).save(paths["background"])
    sample = read_inputs(Sources(*((paths[r],) if r != "background" else paths[r] for r in paths), "a tumor"))
    bundle = weights.load(settings["weights"])
    config = MethodConfig(steps=4, context=0.0)
    made = compose_batch([sample], config, bundle)[0]
    write_result(made, tmp_path / "s", {})
    again = read_result(sample, tmp_path / "s" / "result.png", config, bundle)
    np.testing.assert_allclose(again.pixels, made.pixels, atol=2e-3)
    assert not (again.changed & ~sample.lesions[0].user_mask).any()


def test_invert_reports_the_round_trip_of_every_grid_and_order(settings, tmp_path, sample_files):
    paths = sample_files(tmp_path / "in")
    out = tmp_path / "out"
    plain = {k: v for k, v in settings.items() if k != "batch_size"}
    record = run_invert(InvertConfig(image=paths["background"], out=out, **plain), ["graft-tficomp", "invert"])
    entries = json.loads((out / "report.json").read_text())["round_trips"]
    assert (entries[0]["grid"], entries[0]["order"]) == ("time", 2) and len(entries) == 6
    tensors = load_weights(out / "trajectory.safetensors")
    assert tensors["inverted"].shape == tensors["back"].shape == (5, 4, 8, 8)
    assert torch.equal(tensors["inverted"][-1], tensors["back"][-1])
    miss = (tensors["inverted"][0] - tensors["back"][0]).double().square().mean().sqrt()
    assert entries[0]["latent_rms"] == pytest.approx(float(miss), rel=1e-5)
    assert tensors["time"].tolist() == pytest.approx([0, 249.75, 499.5, 749.25, 999])
    assert read_config(out / "trajectory.safetensors")["provenance"]["synthetic"] is True
    with Image.open(out / "reconstruction.png") as image:
        assert image.size == (48, 40)
    assert record["measures"]["network_calls"] == 8 and record["inputs"].keys() == {"image"}


def test_round_trip_is_exact_for_a_constant_clean_prediction(random_bundle):
    bundle = weights.load(str(random_bundle))

    class Constant(Denoiser):
        def plain(self, context):
            return lambda x, k: torch.full_like(x, 0.25)

    network = Constant(bundle, dpm_grid(bundle.alphas_cumprod, 5))
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    for order in (1, 2):
        trip = round_trip(z, network, torch.zeros(1, 1, 32), order)
        torch.testing.assert_close(trip.back, trip.inverted, rtol=0, atol=1e-12)


def test_names_and_csv(tmp_path):
    folders = [tmp_path / "x" / "ours", tmp_path / "y" / "ours", tmp_path / "y" / "other"]
    assert method_names(folders) == ["ours", "ours (2)", "other"]
    assert as_csv(["k"], {"a": {"m": np.array([0.5])}}) == "id,method,m\nk,a,0.5\n"
    assert evaluate.NOTHING == "doing nothing" and score.orientation("psnr_bg") == 1
