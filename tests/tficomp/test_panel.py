"""The labelled sheet: sizes, grey levels, and the rim of a mask."""

from dataclasses import replace

import numpy as np
from skimage.segmentation import find_boundaries

from graft_common.pixels import picture_from_array
from tficomp.composite import composite
from tficomp.config import MethodConfig
from tficomp.panel import CELL, LINE, PAD, outlined, panel, sample_row, to_uint8
from tficomp.place import place
from tficomp.records import Inputs, Lesion

RNG = np.random.default_rng(2)


def test_grey_levels_are_rounded_and_clipped():
    pixels = np.array([[[-1.0, -2.0, 1.0, 3.0, 0.0, 0.2]]], np.float32)
    assert to_uint8(pixels)[0].tolist() == [[v] * 3 for v in (0, 0, 255, 255, 128, 153)]


def test_rim_is_the_masks_inner_boundary():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 8:33] = True
    mask[10:14, 12:20] = False
    pixels = np.full((1, 30, 40), -0.25, np.float32)
    out = outlined(pixels, mask)
    rim = find_boundaries(mask, connectivity=1, mode="inner")
    assert np.array_equal((out != -0.25).all(axis=0), rim)
    np.testing.assert_allclose(out[:, rim].T, [[1.0, 0.8, -0.6]] * int(rim.sum()), rtol=1e-6)


def test_sheet_has_a_cell_for_each_picture():
    row = [("background", RNG.uniform(-1, 1, (1, 64, 64))), ("wide", np.ones((3, 20, 80), np.float32))]
    sheet = panel([row, row, row[:1]], "two and a half (synthetic)")
    assert sheet.size == (PAD + 2 * (CELL + PAD), LINE + PAD + PAD + 3 * (CELL + LINE + PAD))
    array = np.asarray(sheet)
    assert (array[: LINE + PAD].min(axis=(0, 2)) < 128).any()  # the title is there
    first = array[2 * PAD + 2 * LINE :][:CELL, PAD : PAD + CELL]
    assert first.std() > 30
    wide = array[2 * PAD + 2 * LINE :][: CELL // 4, 2 * PAD + CELL :][:, :CELL]
    assert (wide == 255).all()


def test_every_object_has_its_cell():
    background, mask = picture_from_array(np.zeros((20, 20), np.uint8)), np.zeros((20, 20), bool)
    mask[4:16, 4:16] = True
    things = [np.full((1, 20, 20), level, np.float32) for level in (-0.5, 0.5)]
    one = Inputs(background, tuple(Lesion(t, mask, mask) for t in things), "x")
    placed = place(one, MethodConfig(), 64, 8)
    result = composite(np.zeros((3, 64, 64), np.float32), one, placed, MethodConfig())
    row = sample_row(one, result)
    names = ["background + user mask", "object 1 + lesion mask", "object 2 + lesion mask", "copy-paste",
             "composed (synthetic)", "lesion mask"]  # fmt: skip
    assert [label for label, _ in row] == names
    assert [row[i][1][0, 0, 0] for i in (1, 2)] == [-0.5, 0.5]
    single = sample_row(replace(one, lesions=one.lesions[:1]), result)
    assert [label for label, _ in single][1:3] == ["object + lesion mask", "copy-paste"]


def test_a_picture_of_the_cells_size_is_pasted_as_it_is():
    pixels = RNG.uniform(-1, 1, (3, CELL, CELL)).astype(np.float32)
    sheet = np.asarray(panel([[("exact", pixels)]]))
    assert np.array_equal(sheet[PAD + LINE : PAD + LINE + CELL, PAD : PAD + CELL], to_uint8(pixels))
