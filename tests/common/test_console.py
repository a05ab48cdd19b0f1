"""What every command shares, through `run_command` with verbs made here: exit codes, one line, records, `--config`."""

import errno
import hashlib
import json
import os
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from graft_common.console import Run, Verb, checked_out, peak_memory, progress, run_command, write_json
from graft_common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Paint:
    """Paint a picture."""

    image: Path
    """What to paint over."""
    colour: Literal["red", "blue"] = "red"
    """Which colour."""
    times: int = 1
    """How often."""
    window: tuple[float, float] | None = None
    """Centre and width."""
    out: Path = Path("out")
    """Folder."""
    json: bool = False
    """Print the record."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Look at a picture."""

    out: Path = Path("out")
    """Folder."""


@pytest.fixture
def command(monkeypatch):
    """`command(function, *words)`: exit code of the program `brush` whose verb `paint` is `function`."""

    def call(function, *words):
        module = types.ModuleType("brush_verbs")
        module.paint = function
        monkeypatch.setitem(sys.modules, "brush_verbs", module)
        verbs = {"paint": Verb(Paint, "brush_verbs:paint"), "look": Verb(Look, "brush_verbs:missing")}
        return run_command("brush", verbs, [str(word) for word in words])

    return call


def done(config, argv):
    return {"times": config.times, "argv": argv}


def test_done_is_0_and_json_is_one_line_on_stdout(command, capsys):
    assert command(done, "paint", "--image", "a.png", "--times", "3") == 0
    assert capsys.readouterr() == ("", "")
    assert command(done, "paint", "--image", "a.png", "--json") == 0
    out, err = capsys.readouterr()
    assert (
        json.loads(out)["argv"] == ["brush", "paint", "--image", "a.png", "--json"] and out.count("\n") == 1 and not err
    )


@pytest.mark.parametrize("words, held", [
    (["paint", "--image", "a.png", "--times", "many"], "many"), (["paint", "--image", "a.png", "--colour", "green"], "green"),
    (["paint", "--image", "a.png", "--tmies", "3"], "--tmies"), (["paint"], "--image"), (["pant"], "pant"), ([], "paint"),
    (["paint", "--image", "a.png", "--window", "1"], "--window"), (["paint", "--image", "x" * 300, "--times", "y"], "y"),
])  # fmt: skip
def test_bad_flags_are_one_line_that_holds_them(command, capsys, words, held):
    assert command(done, *words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("brush: ") and held in err and "Traceback" not in err
    assert not any(c in err for c in "│╭╰─")


def test_says_where_it_wrote(command, capsys, monkeypatch, tmp_path):
    assert command(lambda config, argv: {"outputs": ["a.png"]}, "paint", "--image", "i", "--out", tmp_path / "here") == 0
    assert capsys.readouterr().err == f"brush paint: wrote a.png in {tmp_path / 'here'}\n"

    @dataclass(frozen=True)
    class Draw:
        """Draw into a folder that stands alone on the command line."""

        folder: tyro.conf.Positional[Path]
        """Where."""

    module = types.ModuleType("brush_more")
    module.draw = lambda config, argv: {"outputs": ["b.png"]}
    monkeypatch.setitem(sys.modules, "brush_more", module)
    verbs = {"draw": Verb(Draw, "brush_more:draw"), "look": Verb(Look, "brush_more:none")}
    assert run_command("brush", verbs, ["draw", "there"]) == 0
    assert capsys.readouterr().err == "brush draw: wrote b.png in there\n"


def test_bad_input_is_2_with_its_own_line(command, capsys):
    def refuse(config, argv):
        raise InputError(f"image {config.image}: is empty (0 bytes);\n   give a complete file")

    assert command(refuse, "paint", "--image", "spa ce/ünï.png") == 2
    assert capsys.readouterr().err == "brush: image spa ce/ünï.png: is empty (0 bytes); give a complete file\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_a_full_or_forbidden_disk_is_the_users_to_mend(command, capsys, tmp_path, code):
    def full(config, argv):
        raise OSError(code, os.strerror(code), str(tmp_path / "result.png"))

    assert command(full, "paint", "--image", "a.png", "--out", tmp_path) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "result.png") in err and os.strerror(code) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("wires crossed"), OSError(errno.EIO, "broken"), ImportError("no such thing")]
)
def test_our_own_fault_is_1_and_the_traceback_goes_to_run_log(command, capsys, tmp_path, error):
    def crash(config, argv):
        config.out.mkdir()
        raise error

    assert command(crash, "paint", "--image", "a.png", "--out", tmp_path / "o") == 1
    err = capsys.readouterr().err
    assert str(tmp_path / "o/run.log") in err and err.count("\n") == 1 and "Traceback" not in err
    log = (tmp_path / "o/run.log").read_text()
    assert log.startswith("Traceback") and type(error).__name__ in log and str(error) in log


def test_a_crash_before_the_folder_exists_still_leaves_a_log(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def crash(config, argv):
        raise RuntimeError("early")

    assert command(crash, "paint", "--image", "a.png", "--out", tmp_path / "never") == 1
    assert not (tmp_path / "never").exists()
    (log,) = tmp_path.rglob("run.log")
    assert str(log) in capsys.readouterr().err and "early" in log.read_text()


def test_missing_system_libraries_are_named(command, capsys):
    def cv2(config, argv):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    assert command(cv2, "paint", "--image", "a.png") == 2
    assert "libgl1 libglib2.0-0" in capsys.readouterr().err


def test_interrupted_is_130(command, capsys):
    def interrupt(config, argv):
        raise KeyboardInterrupt

    assert command(interrupt, "paint", "--image", "a.png") == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "interrupted" in err


def test_help_is_0_and_shows_the_sentences(command, capsys):
    assert command(done, "--help") == 0
    assert "Paint a picture." in " ".join(capsys.readouterr().out.split())
    assert command(done, "paint", "--help") == 0
    assert "How often." in capsys.readouterr().out


def test_config_repeats_a_run(command, tmp_path, capsys):
    seen = []

    def keep(config, argv):
        seen.append(config)
        run = Run(argv, config, "graft-common", outputs=["result.png"])
        return run.write(config.out)

    first = [
        "paint",
        "--image",
        "a.png",
        "--colour",
        "blue",
        "--times",
        "4",
        "--window",
        "40",
        "400",
        "--out",
        tmp_path,
    ]
    assert command(keep, *first) == 0
    again = ["paint", "--config", tmp_path / "run.json", "--image", "b.png", "--out", tmp_path / "o", "--times", "5"]
    assert command(keep, *again) == 0, capsys.readouterr().err
    assert seen[1] == Paint(image=Path("b.png"), colour="blue", times=5, window=(40.0, 400.0), out=tmp_path / "o")
    assert command(keep, "paint", f"--config={tmp_path / 'run.json'}", "--out", tmp_path / "p") == 2  # no image in it
    assert "--image" in capsys.readouterr().err


@pytest.mark.parametrize("text, why", [
    ("{", "run.json"), ("[]", "run.json"), ('{"config": {"colours": 3}}', "colours"), ('{"config": 3}', "run.json"),
])  # fmt: skip
def test_a_config_that_is_none_is_refused(command, tmp_path, capsys, text, why):
    path = tmp_path / "run.json"
    path.write_text(text)
    assert command(done, "paint", "--config", path, "--image", "a.png") == 2
    err = capsys.readouterr().err
    assert str(path) in err and why in err and err.count("\n") == 1
    assert command(done, "paint", "--config", tmp_path / "missing.json", "--image", "a.png") == 2


def test_out_must_be_a_folder_that_can_be_written(tmp_path):
    file = tmp_path / "file.png"
    file.write_bytes(b"x")
    assert checked_out(tmp_path / "new/deep") == tmp_path / "new/deep" and not (tmp_path / "new").exists()
    assert checked_out(tmp_path) == tmp_path
    for bad in (file, file / "under", file / "under/deep"):
        with pytest.raises(InputError) as why:
            checked_out(bad)
        assert f"--out {bad}" in str(why.value) and "is a file" in str(why.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="may not be written"):
        checked_out(tmp_path / "o")


def test_record_has_the_promised_keys_and_no_folder(tmp_path):
    image = tmp_path / "DOE_JOHN" / "scan.png"
    image.parent.mkdir()
    image.write_bytes(b"pixels")
    run = Run(
        ["brush", "paint", "--image", str(image)], Paint(image=image, out=tmp_path / "DOE_JOHN" / "o"), "graft-common"
    )
    with run.stage("read"):
        run.read("image", image)
        time.sleep(0.02)
    with run.stage("read"):
        time.sleep(0.02)
    with pytest.raises(RuntimeError), run.stage("break"):
        raise RuntimeError
    record = run.write(tmp_path / "o")
    promised = "schema command config seed versions weights inputs stages peak_memory_bytes outputs"
    assert set(promised.split()) <= set(record)
    assert json.loads((tmp_path / "o/run.json").read_text()) == record
    assert "DOE_JOHN" not in json.dumps(record) and record["input_names"] == {"image": "scan.png"}
    assert record["inputs"] == {"image": hashlib.sha256(b"pixels").hexdigest()}
    assert record["stages"]["read"] > 0.03 and "break" in record["stages"]
    assert 1e6 < record["peak_memory_bytes"] == peak_memory()


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_progress_goes_to_stderr_and_can_be_silent(capsys):
    for quiet in (True, False):
        with progress("paint", 2, quiet=quiet) as advance:
            advance(2)
        said = capsys.readouterr()
        assert said.out == "" and said.err == ""  # a log file gets no lines of a bar
