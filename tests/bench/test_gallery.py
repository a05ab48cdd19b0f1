"""The gallery runs what is installed, survives what fails or hangs, and its page needs nothing outside itself."""

import json
import os
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft_bench import methods
from graft_bench.cli import main
from graft_bench.results import collect

METRICS = {
    "psnr_background": {"mean": 31.4159, "ci95": [30.5, 32.25], "n": 3},
    "share<changed>": {"mean": 0.125, "n": 3},
}

FAKES = {
    "good": """
        import numpy as np
        from PIL import Image
        for name, side in (("panel.png", 200), ("result.png", 64), ("more/second.png", 65)):
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(path)
        (out / "volume.nii.gz").write_bytes(b"1")
        metrics = {"schema": 1, "method": "good", "metrics": METRICS, "backbones": {"a": "b"}}
        (out / "metrics.json").write_text(json.dumps(metrics))
        run = {"schema": 1, "seed": 7, "weights": {"name": "tiny-sd", "sha256": "ab" * 32}, "stages": {"encode": 1.5},
               "peak_memory_bytes": 5e6, "versions": {"torch": "2"},
               "outputs": ["panel.png", "result.png", "more/second.png", "volume.nii.gz", "metrics.json"]}
        (out / "run.json").write_text(json.dumps(run))
        return 0
    """,
    "failing": """
        print("the reason <b>why</b>", file=sys.stderr)
        return 2
    """,
    "hanging": """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (out / "child.pid").write_text(str(child.pid))
        time.sleep(600)
    """,
    "silent": """
        return 0
    """,
    "broken": """
        (out / "panel.png").write_bytes(b"<html>no picture</html>")
        (out / "metrics.json").write_text('{"metrics": {"psnr": {"mean": NaN}}}')
        (out / "run.json").write_text('{"outputs": ["gone.png", "../good/result.png"]}')
        return 0
    """,
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install small distributions that declare an entry point and nothing else; return the installer."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site))

    def install(*names: str) -> None:
        for name in names:
            (site / f"fake_{name}.py").write_text(
                "import json, subprocess, sys, time\nfrom pathlib import Path\n"
                f"METRICS = {METRICS!r}\n"
                "def main(argv):\n        assert argv[:2] == ['demo', '--out'], argv\n        out = Path(argv[2])\n"
                + FAKES[name].strip("\n")
                + "\n"
            )
            info = site / f"fake_{name}-1.2.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: fake-{name}\nVersion: 1.2\nSummary: The {name} <method>\n")
            scripts = f"[console_scripts]\ngraft-{name} = fake_{name}:main\n" if name == "good" else ""
            (info / "entry_points.txt").write_text(f"[graft.methods]\n{name} = fake_{name}:main\n{scripts}")
        from importlib.metadata import Distribution, PathDistribution

        points = [
            point
            for info in sorted(site.glob("*.dist-info"))
            for point in PathDistribution(info).entry_points
            if point.group == methods.GROUP
        ]
        assert all(isinstance(point.dist, Distribution) for point in points)
        monkeypatch.setattr(methods, "entry_points", lambda group: [p for p in points if p.group == group])

    return install


class Page(HTMLParser):
    """Pictures, addresses and text of a page; unbalanced tags are an error."""

    VOID = ("meta", "link", "img", "br")
    ADDRESSED = ("src", "href", "srcset", "action", "poster", "data", "background")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.scripts = 0
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in self.ADDRESSED]
        if tag == "img":
            self.images.append(found)
        self.scripts += tag == "script" or any(k.startswith("on") for k in found)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_page_shows_every_output_and_nothing_from_outside(fakes, tmp_path: Path, capfd) -> None:
    fakes("good")
    out = tmp_path / "a folder ü"
    assert main(["demo", "--out", str(out)]) == 0
    assert capfd.readouterr().out.strip() == str(out / "index.html")
    raw = (out / "index.html").read_text(encoding="utf-8")
    shown = Page(raw)
    assert shown.scripts == 0 and "http://" not in raw and "https://" not in raw and "url(" not in raw
    assert all(a.startswith(("data:", "#")) for a in shown.addresses), shown.addresses
    # one picture for the panel, one per raw output, byte for byte the files
    files = ["panel.png", "result.png", "more/second.png"]
    assert len(shown.images) == 3
    for image, name in zip(shown.images, files, strict=True):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/png;base64" and b64decode(data) == (out / "good" / name).read_bytes()
        assert np.asarray(Image.open(BytesIO(b64decode(data)))).shape[:2] == (int(image["height"]), int(image["width"]))
        assert "synthetic" in image["alt"]
    for word in (
        "not for diagnosis", "synthetic", "31.42", "30.5 to 32.25", "0.125", "not given", "share<changed>", "5 MB",
        f"graft-good demo --out {(out / 'good').as_posix()}", "volume.nii.gz", "1 of 1 demos succeeded", "seconds",
        "The good <method>", "a: b",
    ):  # fmt: skip
        assert word.lower() in shown.text.lower(), word


def test_failures_are_shown_and_the_others_still_run(fakes, tmp_path: Path, capfd) -> None:
    fakes("broken", "failing", "good", "silent")
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out), "--json"]) == 1
    record = json.loads(capfd.readouterr().out)
    by_name = {m["name"]: m for m in record["methods"]}
    assert [m["name"] for m in record["methods"] if m["ok"]] == ["good"]
    assert "exit code 2" in by_name["failing"]["errors"][0]
    assert by_name["silent"]["errors"] == ["wrote no run.json", "wrote no metrics.json", "wrote no panel.png"]
    broken = " ".join(by_name["broken"]["errors"])
    for word in ("psnr has no finite mean", "panel.png is not a readable", "gone.png, which is not there", "outside"):
        assert word in broken
    shown = Page((out / "index.html").read_text())
    assert "1 of 4 demos succeeded" in shown.text and "the reason <b>why</b>" in shown.text
    assert len(shown.images) == 3
    assert by_name["failing"]["command"].startswith("python -m fake_failing demo")


def test_a_hanging_demo_is_stopped_with_its_children(fakes, tmp_path: Path) -> None:
    fakes("hanging")
    out = tmp_path / "out"
    began = time.monotonic()
    assert main(["demo", "--out", str(out), "--timeout", "8"]) == 1
    assert 8 <= time.monotonic() - began < 60
    assert "stopped after 8 s, the time limit" in Page((out / "index.html").read_text()).text
    assert not alive(int((out / "hanging/child.pid").read_text())), "the hung demo's own child still runs"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_failure_never_shows_an_earlier_runs_results(fakes, tmp_path: Path) -> None:
    fakes("good")
    assert main(["demo", "--out", str(tmp_path / "o")]) == 0
    (tmp_path / "site/fake_good.py").write_text("def main(argv):\n    raise SystemExit(1)\n")
    assert main(["demo", "--out", str(tmp_path / "o")]) == 1
    assert not Page((tmp_path / "o/index.html").read_text()).images


def test_pictures_are_found_where_the_record_lists_none(fakes, tmp_path: Path) -> None:
    fakes("good")
    assert main(["demo", "--out", str(tmp_path / "o"), "--only", "good"]) == 0
    run = tmp_path / "o/good/run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"outputs": []}))
    method = methods.installed()[0]
    result = collect(methods.Ran(method, tmp_path / "o/good", "x", 1.0, "", ""))
    assert result.ok and [s.name for s in result.raw] == ["more/second.png", "result.png"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--only", "nobody"], "--only nobody"),
        (["--timeout", "0"], "--timeout 0"),
        (["--timeout", "nan"], "--timeout nan"),
        (["--timeout", "soon"], "soon"),
        (["--onyl", "good"], "--onyl"),
    ],
)
def test_wrong_flags_are_one_line(fakes, tmp_path: Path, capsys, flags: list[str], words: str) -> None:
    fakes("good")
    assert main(["demo", "--out", str(tmp_path / "o"), *flags]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert not (tmp_path / "o").exists()


def test_out_that_is_a_file_and_no_methods(fakes, tmp_path: Path, capsys) -> None:
    fakes()
    (tmp_path / "file").write_text("kept")
    assert main(["demo", "--out", str(tmp_path / "file/x")]) == 2
    assert str(tmp_path / "file/x") in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "o")]) == 2
    assert "no method is installed" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_methods_are_found_through_the_entry_point_group() -> None:
    found = {m.name: m for m in methods.installed()}
    assert found["tficomp"].value == "tficomp.cli:main" and found["tficomp"].program == "graft-tficomp"
    assert os.path.basename(sys.executable).startswith("python")
