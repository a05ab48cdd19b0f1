"""Commands in READMEs parse, blocks marked `python run` run, and pictures and links that they show are there.

A fence ```sh holds commands; every line that starts with graft- must parse with that program's own flags. A fence
```python run holds code that must run as it stands, in a folder with healthy.png, tumour.png, tumour_mask.png and
where.png.
"""

import importlib
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
READMES = sorted([ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("packages/*/README.md")])
FENCE = re.compile(r"^```(\w[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, kind: str) -> list[str]:
    return [body for info, body in FENCE.findall(path.read_text(encoding="utf-8")) if " ".join(info.split()) == kind]


def commands() -> list[tuple[str, str]]:
    found = []
    for path in READMES:
        for body in blocks(path, "sh"):
            lines = re.sub(r"\\\n\s*", " ", body).splitlines()
            found += [(path.relative_to(ROOT).as_posix(), line) for line in lines if line.startswith("graft-")]
    return found


@pytest.mark.parametrize("where, line", commands())
def test_commands_parse(where: str, line: str) -> None:
    from graft_common.console import _parse

    program, *words = shlex.split(line, comments=True)
    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    assert program in scripts, f"{where}: no such command: {program}"
    module = importlib.import_module(scripts[program].partition(":")[0])
    if {"-h", "--help"} & set(words):
        return
    verb, config = _parse(program, module.VERBS, words)
    assert verb == words[0]
    if hasattr(config, "check"):
        config.check()


def test_a_wrong_command_would_be_noticed() -> None:
    from graft_bench.cli import VERBS
    from graft_common.console import _parse
    from graft_common.errors import InputError

    assert commands(), "no README shows a command"
    with pytest.raises(InputError, match="--ouput"):
        _parse("graft-bench", VERBS, ["demo", "--ouput", "x"])


@pytest.mark.parametrize("path", [p for p in READMES if blocks(p, "python run")], ids=lambda p: p.parent.name)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft_common import phantoms

    healthy, tumour = phantoms.draw("brain", 64, 1, tumor="none"), phantoms.draw("brain", 64, 2, tumor="left")
    where = np.zeros((64, 64), np.uint8)
    where[22:42, 24:44] = 255
    mask = tumour.masks["tumor"].astype(np.uint8) * 255
    files = {"healthy": healthy.image, "tumour": tumour.image, "tumour_mask": mask, "where": where}
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    for body in blocks(path, "python run"):
        exec(compile(body, str(path.relative_to(ROOT)), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("path", sorted(ROOT.glob("packages/*/README.md")), ids=lambda p: p.parent.name)
def test_a_method_shows_a_command_and_a_call(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"graft-{path.parent.name} " in " ".join(blocks(path, "sh")), "no ```sh block with the method's command"
    assert blocks(path, "python run"), "no ```python run block"
    assert "not for diagnosis" in text


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(FENCE, "", path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing, missing


def test_the_root_readme_names_commands_and_status() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "not for diagnosis" in text and "make demo" in text and "make test" in text
    built = {p.parent.name for p in ROOT.glob("packages/*/pyproject.toml")}
    rows = re.findall(r"^\| (?:\[)?`?(?:graft-)?(\w+)`?.*\| (\w+)[^|]*\|$", text, re.MULTILINE)
    status = {name: word for name, word in rows if word in ("works", "partly", "planned")}
    assert len(status) == 9, status
    assert {name for name, word in status.items() if word != "planned"} == built
