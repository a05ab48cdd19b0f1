"""Who may import whom: packages the core and never each other, stages no stages, all only what they declare."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = {
    "graft_common": ROOT / "common",
    "graft_bench": ROOT / "benchmarks",
    **{p.parent.name: p.parent for p in sorted(ROOT.glob("packages/*/pyproject.toml"))},
}
METHODS = [name for name in MEMBERS if name not in ("graft_common", "graft_bench")]
# Optional packages that may not be installed here, by import name.
OPTIONAL = {"xformers": "xformers", "gdcm": "python-gdcm"}

# Core parts from the ground up; a part may import its own level and those below. `dicom_*` belongs to dicom, and so on.
LEVELS = [
    {"__init__", "errors", "files", "settings", "device", "findings", "markdown", "panel", "picture", "resample", "raster",
     "noising", "resume"},
    {"rng", "checkpoint", "provenance", "console"},
    {"dicom", "nifti", "bundle", "attention", "rangeview"},
    {"pixels"},  # the door to all file formats; what the formats share is picture, resample and raster
    {"hooks", "inversion"},
    {"guidance", "training", "metrics"},
]
ALONE = {"phantoms": {"errors"}}

# The stages of a method, in the order of the data. What joins them (pipeline and the verbs) and what serves them (config,
# records, geometry, readers) are not stages, and a stage may use only such servers as use no stage themselves.
STAGES = {"inputs", "place", "encode", "denoise", "decode", "composite", "write"}


def sources(name: str) -> list[Path]:
    return sorted((MEMBERS[name] / "src" / name).rglob("*.py"))


def module_of(path: Path, name: str) -> str:
    parts = path.relative_to(MEMBERS[name] / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, name: str) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, as an absolute dotted name; `from a import b` gives a.b."""
    package = module_of(path, name).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)


def part(module: str) -> str:
    """Core part of a dotted name: graft_common.dicom_write.encode -> dicom."""
    words = module.split(".")
    first = words[1] if len(words) > 1 else "__init__"
    known = {name for level in LEVELS for name in level} | set(ALONE)
    return first if first in known else next((k for k in known if first.startswith(k + "_")), first)


@pytest.mark.parametrize("name", MEMBERS)
def test_packages_import_the_core_and_never_each_other(name: str) -> None:
    others = (set(METHODS) | {"graft_bench", "tests", "benchmarks", "tools"}) - {name}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(name)
        for module, line in imported(path, name)
        if module.split(".")[0] in others
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_is_layered() -> None:
    level = {name: rank for rank, names in enumerate(LEVELS) for name in names}
    wrong = []
    for path in sources("graft_common"):
        here = part(module_of(path, "graft_common"))
        for module, line in imported(path, "graft_common"):
            if module.split(".")[0] != "graft_common" or (there := part(module)) == here:
                continue
            if there not in level and there not in ALONE:
                there = "__init__"  # a name such as __version__ from the package itself
            if here in ALONE:
                allowed = there in ALONE[here]
            else:
                assert here in level, f"{path.relative_to(ROOT)}: say in LEVELS where {here} stands"
                above = len(LEVELS) - 1 if there in ALONE else level[there]  # only the top may draw phantoms
                allowed = above <= level[here]
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", METHODS)
def test_stages_never_import_stages(name: str) -> None:
    uses = {}
    for path in sources(name):
        parts = [m.split(".") for m, _ in imported(path, name)]
        uses[path.stem] = {words[1] for words in parts if words[0] == name and len(words) > 1} - {path.stem}

    def reached(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
        direct = uses.get(module, set()) - seen
        return direct.union(*(reached(m, seen | direct) for m in direct))

    assert STAGES & set(uses), f"{name} has none of the stages {sorted(STAGES)}"
    wrong = {stage: sorted(reached(stage) & STAGES) for stage in STAGES & set(uses) if reached(stage) & STAGES}
    assert not wrong, wrong


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


@pytest.mark.parametrize("name", MEMBERS)
def test_every_third_party_import_is_declared_by_its_member(name: str) -> None:
    project = tomllib.loads((MEMBERS[name] / "pyproject.toml").read_text())["project"]
    extras = [r for group in project.get("optional-dependencies", {}).values() for r in group]
    declared = {normal(r) for r in [*project["dependencies"], *extras]}
    owners = packages_distributions()
    wrong = []
    for path in sources(name):
        for module, line in imported(path, name):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top == name:
                continue
            found = {normal(d) for d in owners.get(top, [OPTIONAL.get(top, top)])}
            if not found & declared:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {top} ({', '.join(found)}), not declared")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_declared_dependency_is_imported(name: str) -> None:
    project = tomllib.loads((MEMBERS[name] / "pyproject.toml").read_text())["project"]
    # not imported by name: torchvision backs transformers' image processors, peft loads LoRA weights for diffusers
    silent = {"torchvision", "peft"}
    owners = packages_distributions()
    tops = {module.split(".")[0] for path in sources(name) for module, _ in imported(path, name)}
    used = {normal(d) for top in tops for d in owners.get(top, [OPTIONAL.get(top, top)])}
    idle = {normal(r) for r in project["dependencies"]} - used - silent
    assert not idle, f"{name} declares but never imports {', '.join(sorted(idle))}"


def test_benchmark_scripts_need_torch_and_the_core_only() -> None:
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    allowed = {"torch", "graft_common", "diffusers", "numpy", "triton", "xformers"} | {s.stem for s in scripts}
    wrong = []
    for path in scripts:
        # a method's own part of the GPU suite needs the method; the suite imports it when that part runs
        own = set(MEMBERS) if path.stem.startswith("gpu_") and path.stem != "gpu_suite" else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            wrong += [f"{path.name}: {n}" for n in names if n.split(".")[0] not in allowed | own | sys.stdlib_module_names]
    assert not wrong, wrong


HEAVY = {"torch", "diffusers", "transformers", "cv2", "scipy", "triton"}


@pytest.mark.parametrize("name", MEMBERS)
def test_importing_a_package_loads_no_torch(name: str) -> None:
    code = f"import sys, {name}; heavy = {HEAVY} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Runs --help as the console script does and reports its CPU seconds: wall time depends on what else the machine does.
HELP = """
import resource, sys
from {0}.cli import main
code = main(['--help'])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = sorted({1} & set(sys.modules))
print(code, used.ru_utime + used.ru_stime, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("name", [*METHODS, "graft_bench"])
def test_help_is_quick_and_loads_no_torch(name: str) -> None:
    best = 99.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", HELP.format(name, HEAVY)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        code, seconds, heavy = done.stderr.splitlines()[-1].split(" ", 2)
        assert code == "0" and heavy == "[]", done.stderr
        assert "usage" in done.stdout.lower()
        best = min(best, float(seconds))
    assert best < 1.0, f"{name} --help takes {best:.2f} s of CPU"


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_missing_system_libraries_of_opencv_are_one_line(library: str, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        f"raise ImportError('{library}: cannot open shared object file: No such file or directory')\n"
    )
    (tmp_path / "needs_cv2.py").write_text("def run(config, argv):\n    import cv2\n")
    code = (
        "import sys; from dataclasses import dataclass; from graft_common.console import Verb, run_command\n"
        "@dataclass(frozen=True)\nclass Plain:\n    '''Nothing.'''\n    n: int = 0\n"
        "@dataclass(frozen=True)\nclass Other:\n    '''Else.'''\n    n: int = 0\n"
        "verbs = {'go': Verb(Plain, 'needs_cv2:run'), 'on': Verb(Other, 'needs_cv2:run')}\n"
        "sys.exit(run_command('graft-x', verbs, ['go']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "libgl1 libglib2.0-0" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_opencv_is_imported_inside_functions_only(name: str) -> None:
    for path in sources(name):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "cv2" for n in names), f"{path.relative_to(ROOT)}: import cv2 in the verb"
