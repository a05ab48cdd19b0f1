"""A panel shows every picture in its own cell, whatever its size and channels, and a PNG says where it came from."""

import numpy as np
import pytest

from graft_common.errors import InputError
from graft_common.panel import CELL, LINE, PAD, panel
from graft_common.pixels import read_provenance
from graft_common.raster import is_markup, kind_of, write_png


def solid(h, w, colour):
    return np.broadcast_to(np.array(colour, np.uint8), (h, w, 3)).copy()


def test_each_picture_fills_its_cell():
    grey = np.full((40, 20), 90, np.uint8)
    sheet = panel([[("red", solid(64, 64, (200, 0, 0))), ("grey", grey)], [("strip", solid(1, 900, (0, 0, 200)))]], "title")
    step, top = CELL + PAD, 2 * PAD + LINE  # of the first row of cells
    assert sheet.shape == (top + 2 * (CELL + LINE + PAD), PAD + 2 * step, 3) and sheet.dtype == np.uint8
    red = sheet[top + LINE : top + LINE + CELL, PAD : PAD + CELL]
    assert (red == (200, 0, 0)).all()
    second = sheet[top + LINE : top + LINE + CELL, PAD + step : PAD + step + CELL]
    assert (second[:, : CELL // 2] == 90).all() and (second[:, CELL // 2 :] == 255).all()  # its aspect is kept
    below = sheet[top + LINE + CELL + PAD + LINE :, PAD : PAD + CELL]
    assert (below[0] == (0, 0, 200)).all() and (below[1:] == 255).all()
    for y in (PAD, top, top + CELL + LINE + PAD):  # title and labels
        assert sheet[y : y + LINE, PAD : PAD + CELL].min() < 100


def test_a_png_says_that_it_is_synthetic(tmp_path):
    for array in (np.eye(5, dtype=np.uint8) * 255, solid(4, 6, (1, 2, 3))):
        write_png(tmp_path / "a" / "x.png", array, {"method": "toy"})
        assert read_provenance(tmp_path / "a" / "x.png") == {"method": "toy", "synthetic": True}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_png(tmp_path / "file" / "x.png", array, {})


def test_kinds_are_told_by_the_first_bytes():
    heads = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff\xe0": "jpeg", b"II*\0": "tiff", b"MM\0+": "tiff", b"BM": None, b"": None}
    assert {head: kind_of(head + b"....") if head else kind_of(head) for head in heads} == heads
    assert is_markup(b"\n <!DOCTYPE html>") and is_markup(b"<svg") and not is_markup(b"BM<svg")
