"""inspect_checkpoint shows what safetensors itself says; new_method writes a package that keeps the house's rules."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from graft_common.pixels import read_provenance

ROOT = Path(__file__).resolve().parents[2]


def module(path):
    spec = importlib.util.spec_from_file_location(f"graft_small_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def inspector():
    return module(ROOT / "tools" / "inspect_checkpoint.py")


@pytest.fixture(scope="module")
def maker():
    return module(ROOT / "tools" / "new_method.py")


def test_header_and_tensors_are_shown(inspector, tmp_path, capsys):
    tensors = {"b.weight": np.zeros((2, 3), np.float16), "a": np.arange(4)}
    header = {"format": "pt", "graft": json.dumps({"format": 1, "config": {"width": 3}})}
    save_file(tensors, tmp_path / "own.safetensors", metadata=header)
    assert inspector.main([str(tmp_path / "own.safetensors"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["tensors"] == {"a": ["I64", [4]], "b.weight": ["F16", [2, 3]]} and one["numbers"] == 10
    assert one["config"] == {"width": 3} and one["bytes"] == (tmp_path / "own.safetensors").stat().st_size
    (tmp_path / "unet").mkdir()
    save_file({"c": np.zeros(5, np.float32)}, tmp_path / "unet" / "model.safetensors")
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet"}')
    assert inspector.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for line in ("width: 3", '_class_name: "UNet"', "F16   [2, 3]", "1 tensors, 5 numbers"):
        assert line in said, said


def test_what_cannot_be_inspected_is_one_line(inspector, tmp_path, capsys):
    (tmp_path / "page.safetensors").write_text("<html>" * 9)
    (tmp_path / "empty").mkdir()
    for name, says in (("gone", "no such file"), ("page.safetensors", "cannot be read"), ("empty", "holds no .safe")):
        assert inspector.main([str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert str(tmp_path / name) in said and says in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def package(maker, tmp_path_factory):
    into = tmp_path_factory.mktemp("packages")
    assert maker.main(["mixer_2", "Mixes two pictures: yours & mine.", "--into", str(into)]) == 0
    return into / "mixer_2"


def test_a_new_method_keeps_the_rules_of_imports(package, monkeypatch):
    rules = module(ROOT / "tests" / "test_imports.py")
    monkeypatch.setitem(rules.MEMBERS, "mixer_2", package)
    monkeypatch.setattr(rules, "METHODS", [*rules.METHODS, "mixer_2"])
    for rule in (
        rules.test_packages_import_the_core_and_never_each_other, rules.test_stages_never_import_stages,
        rules.test_every_third_party_import_is_declared_by_its_member, rules.test_every_declared_dependency_is_imported,
        rules.test_opencv_is_imported_inside_functions_only,
    ):  # fmt: skip
        rule("mixer_2")
    monkeypatch.setenv("PYTHONPATH", str(package / "src"))
    rules.test_importing_a_package_loads_no_torch("mixer_2")
    rules.test_help_is_quick_and_loads_no_torch("mixer_2")


def test_a_new_methods_demo_runs(package, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(package / "src")}
    call = [sys.executable, "-m", "mixer_2", "demo", "--out", "out", "--seed"]
    done = subprocess.run([*call, "3"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outputs"] == ["panel.png", "metrics.json"] and record["seed"] == 3
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["method"] == "mixer_2"
    assert read_provenance(tmp_path / "out" / "panel.png")["method"] == "mixer_2"
    done = subprocess.run([*call, "-1"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--seed -1" in done.stderr


def test_bad_names_write_nothing(maker, package, tmp_path, capsys):
    for name, summary in (("Mixer", "x"), ("1st", "x"), ("json", "x"), ("class", "x"), ("ok", ""), ("ok", 'say "x"'),
                          ("ok", "two\nlines")):  # fmt: skip
        assert maker.main([name, summary, "--into", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())
    before = {p: p.read_bytes() for p in package.rglob("*") if p.is_file()}
    assert maker.main(["mixer_2", "Again.", "--into", str(package.parent)]) == 2
    assert {p: p.read_bytes() for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts} == {
        p: b for p, b in before.items() if "__pycache__" not in p.parts
    }
