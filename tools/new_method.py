"""The skeleton of a method package: it installs, answers --help without torch, and has a demo that runs.

    python tools/new_method.py mixer "Mixes two pictures." [--into packages]

It is what every method shares and nothing more: verbs and their configuration, records, two stages, the run record. Replace
`inputs` and `write` by the method's own stages; common/README.md says how they may import each other.
"""

import keyword
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from graft_common.errors import InputError
from graft_common.files import typed, write_bytes


@dataclass(frozen=True)
class Options:
    """Write a new package for one method."""

    name: tyro.conf.Positional[str]
    """Import name, lower case; the package is graft-NAME."""
    summary: tyro.conf.Positional[str]
    """What it does, one sentence."""
    into: Path = Path("packages")
    """Folder that gets the new folder NAME."""


FILES = {
    "pyproject.toml": """[project]
name = "graft-@name@"
version = "0.1.0"
description = "@summary@"
requires-python = ">=3.11"
readme = "README.md"
license = "Apache-2.0"
dependencies = [
    "graft-common",
    "jaxtyping>=0.3",
    "numpy>=2.0",
]

[project.scripts]
graft-@name@ = "@name@.cli:entry"

[project.entry-points."graft.methods"]
@name@ = "@name@.cli:main"

[build-system]
requires = ["uv_build>=0.8"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-name = "@name@"
source-exclude = [".*_cache", "**/.*_cache"]
wheel-exclude = [".*_cache", "**/.*_cache"]
""",
    "README.md": """# graft-@name@

@summary@

**Every output is synthetic and says so: for research, not for diagnosis.**

## One command

```sh
graft-@name@ demo --out out/@name@
```

Or in Python:

```python run
from @name@.inputs import draw_inputs

draw_inputs(0).pixels  # (H, W, 3) uint8
```
""",
    "src/@name@/py.typed": "",
    "src/@name@/__init__.py": '''"""@summary@"""

__version__ = "0.1.0"
''',
    "src/@name@/__main__.py": '''"""`python -m @name@`."""

from @name@.cli import entry

entry()
''',
    "src/@name@/cli.py": '''"""The command `graft-@name@`: verbs and where they live. Importing this loads no torch."""

import sys

from @name@ import config
from graft_common.console import Verb, run_command

VERBS = {"demo": Verb(config.DemoConfig, "@name@.demo:run_demo"), "draw": Verb(config.DrawConfig, "@name@.demo:run_draw")}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-@name@", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
''',
    "src/@name@/config.py": '''"""One flat frozen dataclass per verb; the sentence under a field is its help text."""

from dataclasses import dataclass
from pathlib import Path

from graft_common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Draw one picture."""

    seed: int = 0
    """Seed of everything that is drawn."""
    out: Path = Path("out/@name@")
    """Folder for panel.png and run.json."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(DrawConfig):
    """Show on phantoms, offline, what the method does; also writes metrics.json."""
''',
    "src/@name@/records.py": '''"""What travels from stage to stage, in the order of the stages."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, eq=False)
class Inputs:
    """One sample as read.

    Attributes:
        pixels: (H, W, 3) grey levels or colours.
        caption: what they show.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    caption: str
''',
    "src/@name@/inputs.py": '''"""Seed -> Inputs."""

from @name@.records import Inputs
from graft_common import phantoms


def draw_inputs(seed: int) -> Inputs:
    """One phantom."""
    phantom = phantoms.draw("textures", 64, seed)
    return Inputs(phantom.image, phantom.caption)
''',
    "src/@name@/write.py": '''"""Inputs -> files, each written beside and renamed, each saying that it is synthetic."""

from pathlib import Path
from typing import Any

from @name@.records import Inputs
from graft_common import raster
from graft_common.files import write_bytes


def write_panel(inputs: Inputs, path: Path, note: dict[str, Any]) -> None:
    """8-bit PNG with the provenance inside."""
    write_bytes(path, raster.encode(inputs.pixels, "png", {**note, "synthetic": True}))
''',
    "src/@name@/demo.py": '''"""The verbs: read, work, write, and the record of it."""

from typing import Any

from @name@.config import DemoConfig, DrawConfig
from @name@.inputs import draw_inputs
from @name@.write import write_panel
from graft_common.console import Run, checked_out, write_json
from graft_common.metrics import metrics_json
from graft_common.provenance import stamp


def run_draw(config: DrawConfig, command: list[str]) -> dict[str, Any]:
    """Write panel.png and run.json; returns the run record."""
    config.check()
    out, record = checked_out(config.out), Run(command, config, "graft-@name@")
    with record.stage("read"):
        inputs = draw_inputs(config.seed)
    with record.stage("write"):
        write_panel(inputs, out / "panel.png", stamp("@name@", config.seed, record.weights, record.digests))
    record.outputs, record.measures = ["panel.png"], {"caption": inputs.caption}
    if isinstance(config, DemoConfig):
        write_json(out / "metrics.json", metrics_json("@name@", "demo", {"mean_level": [float(inputs.pixels.mean())]}, {}))
        record.outputs.append("metrics.json")
    return record.write(out)


def run_demo(config: DemoConfig, command: list[str]) -> dict[str, Any]:
    """The verb `demo`."""
    return run_draw(config, command)
''',
}

NEXT = """{folder}: written. Next, in the root's pyproject.toml:
  [tool.uv.sources]: graft-{name} = {{ workspace = true }}
  pytest's --jaxtyping-packages: add {name}
then `make lock`, set the method's status in README.md, and write tests/{name}/."""


def write(options: Options) -> Path:
    """Write the package and return its folder.

    Raises:
        InputError: no name for a package, a summary that would break the files, or the folder is there already.
    """
    name, summary = options.name, options.summary.strip()
    if not (name.isidentifier() and name == name.lower()) or keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise InputError(f"{name}: is no name for a package; give lower-case letters, digits and _, not a module's name")
    if not summary or not summary.isprintable() or set(summary) & set('"\\'):
        raise InputError(f"{options.summary!r}: give one plain sentence without quotes or backslashes")
    folder = options.into / name
    if folder.exists():
        raise InputError(f"{typed(folder)}: is there already; choose another name or remove it")
    for path, text in FILES.items():
        filled = text.replace("@name@", name).replace("@summary@", summary)
        write_bytes(folder / path.replace("@name@", name), filled.encode())
    return folder


def main(argv: list[str] | None = None) -> int:
    """Write the skeleton and say what is left to do; 2 when it cannot be."""
    options = tyro.cli(Options, args=argv, prog="new_method")
    try:
        folder = write(options)
    except InputError as why:
        print(f"new_method: {why}", file=sys.stderr)
        return 2
    print(NEXT.format(folder=folder, name=options.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
