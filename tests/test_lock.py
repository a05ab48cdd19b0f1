"""The exact versions in the root pyproject are the whole resolution, and nothing but names, versions and markers."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNREACHABLE = re.compile(r"network|connect|dns|timed out|error sending request|failed to fetch|offline", re.IGNORECASE)


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("graft_tools_lock", ROOT / "tools/lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def present(lock: ModuleType) -> list[str]:
    return lock.block((ROOT / "pyproject.toml").read_text())[1]


def resolved(lock: ModuleType, root: Path) -> list[str]:
    """Resolve from uv's cache, else from the index; skip where neither can answer."""
    uv = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
    if not Path(uv).exists():
        pytest.skip("uv is not installed")
    try:
        return lock.resolve(root, uv, offline=True)
    except lock.LockError:
        try:
            return lock.resolve(root, uv)
        except lock.LockError as why:
            if UNREACHABLE.search(str(why)):
                pytest.skip("no package index is reachable")
            raise


def test_a_fresh_resolution_is_what_is_pinned(lock: ModuleType) -> None:
    assert resolved(lock, ROOT) == present(lock), "pyproject.toml and the members disagree; run `make lock`"


def test_a_missing_pin_is_noticed(lock: ModuleType, tmp_path: Path) -> None:
    for project in (".", "common", "packages/tficomp", "benchmarks"):
        (tmp_path / project).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / project / "pyproject.toml", tmp_path / project)
    fewer = [pin for pin in present(lock) if not pin.startswith("diffusers==")]
    path = tmp_path / "pyproject.toml"
    path.write_text(lock.with_pins(path.read_text(), fewer))
    assert set(resolved(lock, tmp_path)) - set(fewer) == {p for p in present(lock) if p.startswith("diffusers==")}


def test_pins_hold_no_address_and_cover_both_markers(lock: ModuleType) -> None:
    pins = present(lock)
    assert pins == sorted(pins) and all(lock.PIN.match(pin) for pin in pins)
    text = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"https?://|sha256|index-url|\[\[tool\.uv\.index", text)
    names = [pin.split("==")[0] for pin in pins]
    twice = {name for name in names if names.count(name) > 1}
    assert "numpy" in twice, "numpy has one version per Python range in this resolution"
    assert all(" ; " in pin for pin in pins if pin.split("==")[0] in twice)
    assert {"torch", "torchvision", "triton", "diffusers", "transformers"} <= set(names) - twice


def test_an_address_in_the_lock_is_refused(lock: ModuleType) -> None:
    plain = {"name": "one", "version": "1.0", "source": {"registry": "anywhere"}}
    forked = plain | {"name": "two", "resolution-markers": ["python_full_version < '3.12'"]}
    own = {"name": "mine", "version": "0.1", "source": {"editable": "common"}}
    assert lock.pins({"package": [forked, own, plain]}) == ["one==1.0", "two==1.0 ; python_full_version < '3.12'"]
    with pytest.raises(lock.LockError, match="far comes from"):
        lock.pins({"package": [plain | {"name": "far", "source": {"url": "somewhere"}}]})
    with pytest.raises(lock.LockError, match="not a plain pin"):
        lock.pins({"package": [plain | {"version": "1.0 @ somewhere"}]})


def test_the_lock_file_is_ignored() -> None:
    assert "uv.lock" in (ROOT / ".gitignore").read_text().split()


def test_torch_and_its_companions_come_from_the_lock() -> None:
    members = [tomllib.loads(p.read_text()) for p in ROOT.glob("*/pyproject.toml")]
    members += [tomllib.loads(p.read_text()) for p in ROOT.glob("packages/*/pyproject.toml")]
    for member in members:
        hard = " ".join(member["project"]["dependencies"])
        assert "xformers" not in hard, "xformers is an optional extra of graft-common, built for another torch"
        assert not re.search(r"\bmobi\b", hard.replace("graft-mobi", "")), "the index's `mobi` is a stranger's package"
