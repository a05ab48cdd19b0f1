"""The verb `phantom`: ray-cast drives as a nuScenes tree."""

from typing import Any

from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.phantoms.driving import CAMERAS
from mobi.config import PhantomConfig
from mobi.nuscenes_phantom import write_tree


def run_phantom(config: PhantomConfig, command: list[str]) -> dict[str, Any]:
    """Write the tree and its run.json; the same settings write the same files. Raises InputError as `write_tree`."""
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: must be 0 or more")
    folder = checked_out(config.folder, "folder ")
    record = Run(command, config, "graft-mobi")
    cameras = tuple(CAMERAS) if config.cameras == "all" else ("CAM_FRONT",)
    with record.stage("draw"), progress("key frames", config.n * config.samples, quiet=config.json) as advance:
        record.outputs = write_tree(
            folder, config.n, config.seed, config.size(), config.samples, cameras, config.sweeps, advance
        )
    record.measures = {"scenes": config.n, "samples": config.n * config.samples}
    return record.write(folder)
