"""The converter: what it keeps, what it refuses, and that nothing else in the repository unpickles.

That LPIPS on its file equals torchmetrics' own is tested in tests/common/test_metrics.py.
"""

import ast
import importlib.util
import os
from pathlib import Path

import pytest
import torch

from graft_common.checkpoint import load_weights, read_config

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "convert_checkpoint.py"
MEMBERS = ("common", "packages", "benchmarks", "tools")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("graft_tools_convert", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(path, content):
    torch.save(content, path)
    return path


def lines(kind, tool):
    return {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(tool.FEATURES[kind])}


FIRST = {"alex": (64, 3, 11, 11), "vgg": (64, 3, 3, 3)}


@pytest.mark.parametrize("kind", FIRST)
def test_lpips_keeps_features_and_linear_weights(tool, tmp_path, kind):
    trunk = {"features.0.weight": torch.rand(FIRST[kind]), "classifier.1.weight": torch.rand(3, 2)}
    linear = lines(kind, tool)
    trunk_file, linear_file = saved(tmp_path / "trunk.pth", trunk), saved(tmp_path / "lin.pth", linear | {"more": 1})
    out = tmp_path / "out.safetensors"
    assert tool.main(["lpips", str(trunk_file), str(out), "--linear", str(linear_file)]) == 0
    wanted = {"features.0.weight": trunk["features.0.weight"], **linear}
    stored = load_weights(out)
    assert stored.keys() == wanted.keys() and all(torch.equal(stored[k], wanted[k]) for k in wanted)
    assert read_config(out) == {"model": "lpips", "network": kind}
    assert tool.main(["lpips", str(trunk_file), str(out)]) == 0  # torchmetrics' linear weights of that network
    assert load_weights(out)["lin0.model.1.weight"].shape == (1, 64, 1, 1)


def test_a_state_dict_is_kept_as_it_is(tool, tmp_path):
    from safetensors.torch import load_file

    wanted = {"a.b": torch.rand(2, 3).half(), "c": torch.arange(4)}
    for content in (wanted, {"state_dict": wanted, "epoch": 3}):
        saved(tmp_path / "x.ckpt", content)
        assert tool.main(["state", str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")]) == 0
        stored = load_file(tmp_path / "x.safetensors")
        assert stored.keys() == wanted.keys()
        assert all(torch.equal(stored[k], v) and stored[k].dtype == v.dtype for k, v in wanted.items())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_what_it_refuses(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved("object.pth", Harmful())
    saved("empty.pth", {"a": 1})
    saved("other.pth", {"features.0.weight": torch.rand(1, 1)})
    saved("none.pth", {"x": torch.rand(1, 1)})
    saved("alex.pth", {"features.0.weight": torch.rand(FIRST["alex"])})
    saved("vgg_lines.pth", lines("vgg", tool))
    Path("page.pth").write_text("<html>")
    for words, path, says in (
        (["state", "gone.pth", "o.safetensors"], "gone.pth", "no such file"),
        (["state", "page.pth", "o.safetensors"], "page.pth", "cannot be read as tensors alone"),
        (["state", "object.pth", "o.safetensors"], "object.pth", "cannot be read as tensors alone"),
        (["state", "empty.pth", "o.safetensors"], "empty.pth", "holds no tensors"),
        (["state", "alex.pth", "o.bin"], "o.bin", "must end in .safetensors"),
        (["lpips", "other.pth", "o.safetensors"], "other.pth", "is (1, 1)"),
        (["lpips", "none.pth", "o.safetensors"], "none.pth", "has none"),
        (["lpips", "alex.pth", "o.safetensors", "--linear", "vgg_lines.pth"], "vgg_lines.pth", "lin1.model.1.weight"),
    ):
        assert tool.main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"convert_checkpoint: {path}: ") and says in said and said.count("\n") == 1, said
    assert not Path("pwned").exists() and not Path("o.safetensors").exists() and not Path("o.bin").exists()


def unpickles(path):
    """Lines of a file that import a pickle reader, or call torch.load or numpy.load with pickles allowed."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [(node.lineno, n) for n in names if n.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")]
        if isinstance(node, ast.Call):
            said = ast.unparse(node.func)
            if said.endswith(("torch.load", "load_state_dict_from_url", "load_from_checkpoint", "read_pickle")):
                found.append((node.lineno, said))
            found += [(node.lineno, "allow_pickle") for k in node.keywords if k.arg == "allow_pickle"]
    return found


def test_nothing_else_reads_a_pickle():
    files = [p for member in MEMBERS for p in sorted((ROOT / member).rglob("*.py")) if "/.venv/" not in p.as_posix()]
    assert len(files) > 100 and unpickles(TOOL)
    found = {p.relative_to(ROOT).as_posix(): lines for p in files if p != TOOL and (lines := unpickles(p))}
    assert not found, found
