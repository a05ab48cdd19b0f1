"""graft-common and each method install and run without the rest of the repository, without network or home."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Methods whose row in the README leads to one of their own: those that are built.
METHODS = sorted(re.findall(r"^\| \[\w+\]\(packages/(\w+)/README\.md\)", (ROOT / "README.md").read_text(), re.MULTILINE))
MEMBERS = {"graft_common": "common", **{name: f"packages/{name}" for name in METHODS}}
# Loaded by Python itself before anything else. A subclass, because ssl derives from socket.socket.
BLOCKED = """
import socket
class Blocked(socket.socket):
    def __init__(self, *args, **more):
        raise OSError("sockets are blocked in this test")
def refuse(*args, **more):
    raise OSError("name lookups are blocked in this test")
socket.socket = socket.SocketType = Blocked
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def uv() -> str:
    found = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
    if not Path(found).exists():
        pytest.skip("uv is not installed")
    return found


def call(*command: str, **more) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Import name -> wheel of the core and of every method, built from a copy, so that the checkout is left as it is."""
    folder = tmp_path_factory.mktemp("wheels")
    program = uv()
    for member in MEMBERS.values():
        source = folder / "source" / member
        shutil.copytree(ROOT / member, source, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        call(program, "build", "--quiet", "--wheel", str(source), "--out-dir", str(folder))
    found = {w.name.split("-")[0]: w for w in folder.glob("*.whl")}
    assert found.keys() == {"graft_common", *(f"graft_{name}" for name in METHODS)}
    return {name: found[name if name == "graft_common" else f"graft_{name}"] for name in MEMBERS}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each method in turn; everything about one comes before the next one's environment is made."""
    return request.param


@pytest.fixture(scope="module")
def alone(method: str, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the core, one method and what they need, at the root's exact versions."""
    folder = tmp_path_factory.mktemp("alone")
    program = uv()
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    (folder / "pins.txt").write_text("\n".join(pins))
    call(program, "venv", "--quiet", "--python", sys.executable, str(folder / "env"))
    python = str(folder / "env/bin/python")
    install = [program, "pip", "install", "--quiet", "--python", python, "--constraints", str(folder / "pins.txt")]
    install += [str(wheels["graft_common"]), str(wheels[method])]
    cached = subprocess.run([*install, "--offline"], capture_output=True, text=True)
    if cached.returncode:  # uv's cache does not hold everything
        done = subprocess.run(install, capture_output=True, text=True, timeout=900)
        if done.returncode:
            assert any(w in done.stderr.lower() for w in ("connect", "dns", "fetch", "timed out")), done.stderr
            pytest.skip("no package index is reachable and uv's cache is not complete")
    return folder / "env"


@pytest.fixture
def bare(alone: Path, tmp_path: Path) -> dict[str, str]:
    """Environment variables of a process without home and network; the working folder is `tmp_path/else where`."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block/sitecustomize.py").write_text(BLOCKED)
    for name in ("home", "else where", "tmp"):
        (tmp_path / name).mkdir()
    kept = {k: os.environ[k] for k in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS") if k in os.environ}
    return kept | {
        "PATH": f"{alone / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": str(tmp_path / "block"),
    }


@pytest.mark.parametrize("package", MEMBERS)
def test_wheels_hold_what_they_run_on(package: str, wheels: dict[str, Path]) -> None:
    inside = set(zipfile.ZipFile(wheels[package]).namelist())
    source = ROOT / MEMBERS[package] / "src"
    files = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    wanted = {f for f in files if "__pycache__" not in f and "_cache/" not in f}
    assert wanted <= inside, sorted(wanted - inside)[:5]
    stray = {f for f in inside if ".dist-info/" not in f and not f.endswith("/")} - wanted
    assert not stray, sorted(stray)[:5]
    assert f"{package}/py.typed" in inside


def test_the_core_ships_its_weights(wheels: dict[str, Path]) -> None:
    core = set(zipfile.ZipFile(wheels["graft_common"]).namelist())
    weights = {p.relative_to(ROOT / "common/src").as_posix() for p in (ROOT / "common/src").rglob("*.safetensors")}
    assert weights and weights <= core, "the shipped weights are not in the wheel"
    bundle = {f for f in core if "/tiny-sd/" in f}
    for file in (
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "MODEL_CARD.md",
    ):
        assert any(f.endswith(f"/tiny-sd/{file}") for f in bundle), f"tiny-sd/{file} is not in the wheel"


def test_the_environment_holds_neither_repository_nor_bench(
    method: str, alone: Path, bare: dict[str, str], tmp_path: Path
) -> None:
    listed = call(uv(), "pip", "list", "--quiet", "--python", str(alone / "bin/python"), "--format", "freeze").stdout
    names = {line.split("==")[0] for line in listed.split()}
    assert {name for name in names if name.startswith("graft-")} == {"graft-common", f"graft-{method}"}
    assert not names & {"pytest", "xformers", "mypy", "beartype"}
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    exact = {pin.split(" ; ")[0] for pin in pins}
    assert all(line in exact for line in listed.split() if not line.startswith("graft-")), (
        "a version is not the pinned one"
    )
    help_ = call(f"graft-{method}", "--help", cwd=tmp_path / "else where", env=bare)
    assert f"usage: graft-{method} " in help_.stdout
    tried = subprocess.run(["python", "-c", "import socket; socket.socket()"], env=bare, capture_output=True, text=True)
    assert "sockets are blocked" in tried.stderr, "the block itself does not work"
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_runs_alone(method: str, bare: dict[str, str], tmp_path: Path) -> None:
    where = tmp_path / "else where"
    if "demo" not in call(f"graft-{method}", "--help", cwd=where, env=bare).stdout:
        pytest.skip(f"graft-{method} has no demo")
    call(f"graft-{method}", "demo", "--out", "a demo", cwd=where, env=bare)
    assert {"panel.png", "metrics.json", "run.json"} <= {p.name for p in (where / "a demo").iterdir()}
    assert not list((tmp_path / "home").iterdir()), "something was written into HOME"
    assert [p.name for p in where.iterdir()] == ["a demo"]
