"""Write the exact versions of the whole resolution into the root pyproject: `lock.py [--upgrade] [--check]`.

uv resolves for every platform and Python at once, and some packages end up with two versions, each under a marker.
Both stand in `[tool.uv] constraint-dependencies` with that marker; the lock file itself, which records download
addresses, is ignored by git. Standard library only; uv is run as a program.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "    # locked: begin\n", "    # locked: end\n"
PIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+( ; [A-Za-z0-9_.<>=!'\"() ]+)?$")


class LockError(RuntimeError):
    """uv could not resolve, or its answer cannot be written down safely."""


def pins(lock: dict[str, Any]) -> list[str]:
    """One `name==version[ ; marker]` per version in a parsed uv.lock, sorted; the workspace's own members are left out.

    Raises LockError where a pin would hold anything but a name, a version and a marker (an address, a digest).
    """
    found = []
    for package in lock["package"]:
        if "registry" not in package["source"]:
            if {"editable", "virtual"} & set(package["source"]):
                continue
            raise LockError(f"{package['name']} comes from {sorted(package['source'])}, not from a package index")
        markers = package.get("resolution-markers", [])
        marker = " or ".join(f"({m})" if len(markers) > 1 and " and " in m else m for m in markers)
        found.append(f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else ""))
    for pin in found:
        if not PIN.match(pin):
            raise LockError(f"not a plain pin: {pin}")
    return sorted(found)


def block(text: str) -> tuple[str, list[str], str]:
    """Text before the locked block, the pins inside it, text after it."""
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise LockError("pyproject.toml has lost its `# locked: begin` and `# locked: end` lines")
    return before, tomllib.loads(f"pins = [{inside}]")["pins"], after


def with_pins(text: str, wanted: list[str]) -> str:
    """pyproject text with the locked block replaced."""
    before, _, after = block(text)
    return before + BEGIN + "".join(f'    "{pin}",\n' for pin in wanted) + END + after


def resolve(root: Path, uv: str, upgrade: bool = False, offline: bool = False) -> list[str]:
    """Pins of a fresh resolution of the workspace at `root`, made in a scratch copy: `root` is not written.

    The present pins hold unless `upgrade`. Raises LockError with uv's own words when it finds no solution.
    """
    with tempfile.TemporaryDirectory(prefix="graft-lock-") as folder:
        copy = Path(folder)
        members = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
        for project in [root, *(path for glob in members for path in root.glob(glob))]:
            if not (project / "pyproject.toml").is_file():
                continue
            there = copy / project.relative_to(root)
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / "pyproject.toml", there)
        if upgrade:
            text = (copy / "pyproject.toml").read_text()
            (copy / "pyproject.toml").write_text(with_pins(text, []))
        command = [uv, "lock", "--project", str(copy), *(["--offline"] if offline else [])]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise LockError(done.stderr.strip())
        return pins(tomllib.loads((copy / "uv.lock").read_text()))


def main(argv: list[str] | None = None) -> int:
    """Resolve and write the pins (exit 0), or with --check only compare (exit 1 when they differ)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="forget the present pins and take the newest versions")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the pins are stale")
    args = parser.parse_args(argv)
    uv = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
    path = ROOT / "pyproject.toml"
    text = path.read_text()
    try:
        wanted = resolve(ROOT, uv, upgrade=args.upgrade)
        present = block(text)[1]
    except LockError as why:
        print(f"lock.py: {why}", file=sys.stderr)
        return 1
    changed = sorted(set(wanted) ^ set(present))
    for pin in changed:
        print(("+ " if pin in wanted else "- ") + pin)
    if args.check:
        return int(bool(changed))
    beside = path.with_suffix(".toml.part")
    beside.write_text(with_pins(text, wanted))
    beside.replace(path)
    print(f"{len(wanted)} pins in {path.name}, {len(changed)} lines changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
