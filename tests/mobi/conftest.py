"""What the tests of mobi share: one small phantom tree."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of three samples with CAM_FRONT at 160 x 90 and frames between; do not change it."""
    from mobi.nuscenes_phantom import write_tree

    folder = tmp_path_factory.mktemp("nuscenes") / "root"
    write_tree(folder, 2, seed=5, size=(160, 90), samples=3, cameras=("CAM_FRONT",))
    return folder
