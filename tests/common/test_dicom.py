"""DICOM in and out. Judges: pydicom's own functions on the original file, and the standard's formulas in float64."""

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from graft_common.dicom_write import WRITTEN
from graft_common.errors import InputError
from graft_common.pixels import describe, read_mask, read_picture, read_provenance, write_like, write_mask_like

RNG = np.random.default_rng(11)
FILES = Path(pydicom.__file__).parent / "data/test_files"
IDENTITY = {
    "PatientName": "QUIXOTE^ALONSO",
    "PatientID": "ZX81-4711",
    "PatientBirthDate": "16050116",
    "PatientSex": "M",
    "PatientAddress": "La Mancha 1",
    "OtherPatientIDs": "LAMANCHA99",
    "InstitutionName": "Hospital de la Mancha",
    "ReferringPhysicianName": "PANZA^SANCHO",
    "AccessionNumber": "ACC776655",
    "StudyDate": "19990203",
    "StudyTime": "112233",
    "StudyDescription": "Windmill follow-up",
    "SeriesDescription": "Series of Rocinante",
    "ProtocolName": "Dulcinea protocol",
    "StationName": "ROCINANTE7",
    "DeviceSerialNumber": "SN-998877",
    "ImageComments": "Don Quixote, left knee",
    "BodyPartExamined": "QUIXOTEKNEE",
    "Manufacturer": "Cervantes Inc",
    "OperatorsName": "BACHELOR^CARRASCO",
    "WindowCenterWidthExplanation": "QUIXOTE WINDOW",
}


def make(folder, stored, name="a.dcm", **elements):
    """A CT-like file with identity everywhere it can hide, written by pydicom alone."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    for keyword, value in IDENTITY.items():
        setattr(ds, keyword, value)
    block = ds.private_block(0x0033, "QUIXOTE PRIVATE", create=True)
    block.add_new(1, "LO", "Quixote again")
    inner = Dataset()
    inner.PatientID = "ZX81-4711"
    inner.CodeMeaning = "Quixote code"
    ds.RequestAttributesSequence = [inner]
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.75], 3
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-120.5, -100.25, 42]
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    ds["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    ds.save_as(folder / name, enforce_file_format=True)
    return folder / name


def lut(first, data, bits):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data), first, bits])
    item.add_new("LUTData", "OW", np.asarray(data, "<u2").tobytes())
    item.LUTExplanation = "QUIXOTE LUT"
    return item


def linear(x, c, w):  # PS3.3 C.11.2.1.2.1
    return np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)


def exact(x, c, w):  # PS3.3 C.11.2.1.3.2
    return np.clip((x - c) / w + 0.5, 0, 1)


def sigmoid(x, c, w):  # PS3.3 C.11.2.1.3.1
    return 1 / (1 + np.exp(-4 * (x - c) / w))


CT = RNG.integers(0, 4096, (16, 20)).astype(np.uint16)
SIGNED = RNG.integers(-2048, 2048, (16, 20)).astype(np.int16)
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "BitsStored": 12}
MASK = np.zeros((16, 20), bool)
MASK[4:11, 5:13] = True
CURVE = (4095 * (np.arange(4096) / 4095) ** 0.5).astype(int)
CASES = {
    "linear": (CT, {**HU, "WindowCenter": 40, "WindowWidth": 400}, lambda s: linear(s - 1024.0, 40, 400)),
    "linear w=1": (CT, {**HU, "WindowCenter": 40, "WindowWidth": 1}, lambda s: (s - 1024.0 > 39.5) * 1.0),
    "exact": (
        CT,
        {**HU, "WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
        lambda s: exact(s - 1024.0, 40, 400),
    ),
    "sigmoid": (
        CT,
        {**HU, "WindowCenter": 900, "WindowWidth": 1400, "VOILUTFunction": "SIGMOID"},
        lambda s: sigmoid(s - 1024.0, 900, 1400),
    ),
    "several windows": (
        CT,
        {**HU, "WindowCenter": [40, -600], "WindowWidth": [400, 1500]},
        lambda s: linear(s - 1024.0, 40, 400),
    ),
    "monochrome1": (
        CT,
        {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 3000, "PhotometricInterpretation": "MONOCHROME1"},
        lambda s: 1 - linear(s, 2000, 3000),
    ),
    "signed": (SIGNED, {"WindowCenter": 100, "WindowWidth": 2000}, lambda s: linear(s, 100, 2000)),
    "fractional slope": (
        CT,
        {"BitsStored": 12, "RescaleSlope": 0.25, "RescaleIntercept": 3, "WindowCenter": 500, "WindowWidth": 600},
        lambda s: linear(s * 0.25 + 3, 500, 600),
    ),
    "negative slope": (
        CT,
        {"BitsStored": 12, "RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2000, "WindowWidth": 3000},
        lambda s: linear(4095.0 - s, 2000, 3000),
    ),
    "voi lut": (CT, {"BitsStored": 12, "VOILUTSequence": [lut(0, CURVE, 12)]}, lambda s: CURVE[s] / 4095),
    "voi lut of 8 bits": (
        CT,
        {"BitsStored": 12, "VOILUTSequence": [lut(0, CURVE // 16, 8)]},
        lambda s: (CURVE // 16)[s] / 255,
    ),
    "voi lut, negative first": (
        SIGNED,
        {"BitsStored": 12, "VOILUTSequence": [lut(-1000, CURVE[:3000], 12)]},
        lambda s: CURVE[np.clip(s.astype(int) + 1000, 0, 2999)] / 4095,
    ),
    "voi lut after rescale": (
        CT,
        {**HU, "VOILUTSequence": [lut(-1024, CURVE, 12)]},
        lambda s: CURVE[s] / 4095,
    ),
    "modality lut": (
        CT,
        {
            "BitsStored": 12,
            "ModalityLUTSequence": [lut(0, CURVE, 16)],
            "WindowCenter": 2000,
            "WindowWidth": 3000,
        },
        lambda s: linear(CURVE[s].astype(float), 2000, 3000),
    ),
    "modality lut of 12 bits": (
        CT,
        {
            "BitsStored": 12,
            "ModalityLUTSequence": [lut(0, CURVE, 12)],
            "WindowCenter": 2000,
            "WindowWidth": 3000,
        },
        lambda s: linear(CURVE[s].astype(float), 2000, 3000),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_display_and_its_inverse(tmp_path, case):
    stored, elements, judge = CASES[case]
    path = make(tmp_path, stored, **elements)
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.stored, stored)
    np.testing.assert_allclose(picture.pixels[0], judge(stored) * 2 - 1, atol=2e-6)
    assert picture.source.window_from == "file"
    # unchanged pixels keep every stored value, clipped by the window or not
    same = pydicom.dcmread(write_like(picture, picture.pixels.copy(), MASK, tmp_path / "same.dcm", {}))
    np.testing.assert_array_equal(same.pixel_array, stored)
    # shown alike by pydicom: the same functions on the written file give the same values
    source = pydicom.dcmread(path)
    if "of " not in case and "after" not in case:  # cases that pydicom itself cannot do
        judged = [apply_voi_lut(apply_modality_lut(d.pixel_array, d), d) for d in (source, same)]
        np.testing.assert_array_equal(*judged)
    np.testing.assert_array_equal(read_picture(tmp_path / "same.dcm").pixels, picture.pixels)
    # generated pixels: outside untouched, inside shown as asked for, as near as the integers allow
    new = RNG.uniform(-1, 1, picture.pixels.shape).astype(np.float32)
    out = pydicom.dcmread(write_like(picture, new, MASK, tmp_path / "o.dcm", {}))
    got = out.pixel_array
    np.testing.assert_array_equal(got[~MASK], stored[~MASK])
    low = -2048 if stored.dtype.kind == "i" else 0
    grid = judge(np.arange(low, low + 4096))  # every grey the stored integers can show
    wanted = (new[0, MASK].astype(np.float64) + 1) / 2
    best = np.abs(grid[:, None] - wanted).min(axis=0)
    reached = np.abs(judge(got[MASK]) - wanted)
    # linear interpolation between knots of a curved map may land on the second-nearest integer near the middle
    assert (reached <= best * 1.3 + 2e-4).all()


def test_inverse_of_a_window_is_exact_rounding(tmp_path):
    """HU = 40 + 400 (u - 0.5) for LINEAR_EXACT; stored = HU + 1024, rounded once and with no 8-bit step between."""
    elements = {**HU, "WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    picture = read_picture(make(tmp_path, CT, **elements))
    new = RNG.uniform(-1, 1, picture.pixels.shape).astype(np.float32)
    got = pydicom.dcmread(write_like(picture, new, MASK, tmp_path / "o.dcm", {})).pixel_array[MASK]
    unit = (new[0, MASK].astype(np.float64) + 1) / 2
    np.testing.assert_array_equal(got, np.rint(40 + 400 * (unit - 0.5) + 1024))
    assert len(set(got.tolist())) > 40


def test_no_window_flag_window_and_padding(tmp_path):
    stored = RNG.integers(100, 900, (16, 20)).astype(np.int16)
    stored[:, :4] = -2000
    path = make(tmp_path, stored, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-24)
    picture = read_picture(path)
    low, high = np.percentile(stored[:, 4:] - 24.0, [0.5, 99.5])
    assert describe(picture)["window_from"] == "percentile"
    np.testing.assert_allclose(describe(picture)["window"], [(low + high) / 2, high - low])
    np.testing.assert_allclose(picture.pixels[0], exact(stored - 24.0, (low + high) / 2, high - low) * 2 - 1, atol=1e-6)
    out = pydicom.dcmread(write_like(picture, picture.pixels, MASK, tmp_path / "o.dcm", {}))
    assert (out.VOILUTFunction, out.PixelPaddingValue) == ("LINEAR_EXACT", -2000)
    np.testing.assert_allclose([out.WindowCenter, out.WindowWidth], describe(picture)["window"])
    picture = read_picture(make(tmp_path, stored, WindowCenter=[1, 2], WindowWidth=[3, 4]), window=(500, 300))
    np.testing.assert_allclose(picture.pixels[0], linear(stored, 500, 300) * 2 - 1, atol=1e-6)
    assert (picture.source.window, picture.source.window_from) == ((500, 300), "flag")
    out = pydicom.dcmread(write_like(picture, picture.pixels, MASK, tmp_path / "o.dcm", {}))
    assert (out.WindowCenter, out.WindowWidth) == (500, 300)
    # a blank or impossible window in the file counts as none
    assert read_picture(make(tmp_path, stored, WindowCenter="", WindowWidth="")).source.window_from == "percentile"
    assert read_picture(make(tmp_path, stored, WindowCenter=40, WindowWidth=0)).source.window_from == "percentile"
    constant = read_picture(make(tmp_path, np.full((16, 20), 7, np.int16)))
    assert (constant.pixels == -1).all()


def test_lookup_tables_that_cannot_be_inverted_are_refused(tmp_path):
    wild = np.abs(2048 - np.arange(4096))
    with pytest.raises(InputError, match=r"not monotone.*mapped back.*--window"):
        read_picture(make(tmp_path, CT, BitsStored=12, VOILUTSequence=[lut(0, wild, 12)]))
    upper = CT // 4 + 3000  # only the rising half is in use: fine
    picture = read_picture(make(tmp_path, upper, BitsStored=12, VOILUTSequence=[lut(0, wild, 12)]))
    np.testing.assert_allclose(picture.pixels[0], wild[upper] / 4095 * 2 - 1, atol=1e-6)
    with pytest.raises(InputError, match="mapped back"):
        read_picture(make(tmp_path, CT, **HU, WindowCenter=9e6, WindowWidth=1))


@pytest.mark.parametrize(
    "name",
    ["CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless", "693_J2KI", "image_dfl"],
)
def test_real_grey_files(tmp_path, name):
    source = pydicom.dcmread(FILES / f"{name}.dcm")
    picture = read_picture(FILES / f"{name}.dcm")
    np.testing.assert_array_equal(picture.stored, source.pixel_array)
    if "WindowCenter" in source:
        hu = apply_modality_lut(source.pixel_array, source).astype(float)
        c, w = float(source.WindowCenter), float(source.WindowWidth)
        np.testing.assert_allclose(picture.pixels[0], linear(hu, c, w) * 2 - 1, atol=1e-6)
    mask = np.zeros(picture.stored.shape, bool)
    mask[8:20, 10:30] = True
    new = np.where(mask, np.float32(0.1), picture.pixels)
    out = pydicom.dcmread(write_like(picture, new, mask, tmp_path / "o.dcm", {}))
    np.testing.assert_array_equal(out.pixel_array[~mask], source.pixel_array[~mask])
    assert len(np.unique(out.pixel_array[mask])) == 1
    assert out.get("PixelSpacing") == source.get("PixelSpacing")
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID"):
        assert (
            str(source.get(keyword, "")) == ""
            or str(source.get(keyword)).encode() not in (tmp_path / "o.dcm").read_bytes()
        )


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_rle",
        "SC_ybr_full_422_uncompressed",
        "examples_palette",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_small_odd",
        "SC_rgb_rle_16bit",
    ],
)
def test_real_colour_files_become_rgb(tmp_path, name):
    source = pydicom.dcmread(FILES / f"{name}.dcm")
    rgb = pixel_array(source)
    if source.PhotometricInterpretation == "PALETTE COLOR":
        rgb = apply_color_lut(rgb, source)
    picture = read_picture(FILES / f"{name}.dcm")
    np.testing.assert_array_equal(picture.stored, rgb)
    top = np.iinfo(rgb.dtype).max
    np.testing.assert_allclose(picture.pixels, np.moveaxis(rgb, -1, 0) / (top / 2) - 1, atol=1e-6)
    mask = np.zeros(rgb.shape[:2], bool)
    mask[1, 1] = True
    new = np.where(mask, np.float32(-0.5), picture.pixels)
    out = pydicom.dcmread(write_like(picture, new, mask, tmp_path / "o.dcm", {}))
    np.testing.assert_array_equal(out.pixel_array[~mask], rgb[~mask])
    np.testing.assert_array_equal(out.pixel_array[mask][0], np.full(3, np.rint(top / 4)))
    with pytest.raises(InputError, match="--window does not apply"):
        read_picture(FILES / f"{name}.dcm", window=(1, 2))


def test_frames_and_enhanced_groups(tmp_path):
    with pytest.raises(InputError, match=r"has 15 frames.*--slice 0\.\.14"):
        read_picture(FILES / "rtdose.dcm")
    with pytest.raises(InputError, match=r"--slice 15 is out of range"):
        read_picture(FILES / "rtdose.dcm", slice_index=15)
    source = pydicom.dcmread(FILES / "rtdose.dcm")
    picture = read_picture(FILES / "rtdose.dcm", slice_index=6)
    np.testing.assert_array_equal(picture.stored, source.pixel_array[6])
    assert picture.source.slice_index == 6
    out = pydicom.dcmread(write_like(picture, picture.pixels, np.eye(10, dtype=bool), tmp_path / "o.dcm", {}))
    np.testing.assert_array_equal(out.pixel_array, source.pixel_array[6])
    write_mask_like(picture, np.eye(10, dtype=bool), tmp_path / "m.dcm", {})  # one frame, from frame 6 of 15
    np.testing.assert_array_equal(read_mask(tmp_path / "m.dcm", like=picture), np.eye(10, dtype=bool))
    assert out.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and "NumberOfFrames" not in out

    def frame(z, centre):
        groups, place, voi = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, z]
        voi.WindowCenter, voi.WindowWidth = centre, 100
        groups.PlanePositionSequence, groups.FrameVOILUTSequence = [place], [voi]
        return groups

    shared, measure, value = Dataset(), Dataset(), Dataset()
    measure.PixelSpacing = [0.25, 0.5]
    value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 2, -10, "US"
    shared.PixelMeasuresSequence, shared.PixelValueTransformationSequence = [measure], [value]
    frames = RNG.integers(0, 200, (2, 16, 20)).astype(np.uint16)
    path = make(
        tmp_path,
        frames[0],
        PixelData=frames.tobytes(),
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[frame(1, 50), frame(2, 150)],
    )
    picture = read_picture(path, slice_index=1)
    np.testing.assert_allclose(picture.pixels[0], linear(frames[1] * 2.0 - 10, 150, 100) * 2 - 1, atol=1e-6)
    out = pydicom.dcmread(write_like(picture, picture.pixels, MASK, tmp_path / "o.dcm", {}))
    assert (out.ImagePositionPatient, out.PixelSpacing) == ([0, 0, 2], [0.25, 0.5])


def test_missing_decoder_names_the_syntax_and_the_extra():
    for name, syntax in [("MR_small_jpeg_ls_lossless", "JPEG-LS Lossless"), ("JPGExtended", "JPEG Extended")]:
        path = FILES / f"{name}.dcm"
        try:
            read_picture(path)
        except InputError as error:
            text = str(error)
            assert str(path) in text and syntax in text and "graft-common[dicom]" in text and "python-gdcm" in text
        else:
            pytest.skip("a plugin that decodes this syntax is installed")


@pytest.mark.parametrize("colour", [False, True])
def test_nothing_but_the_allow_list_is_written(tmp_path, colour):
    stored = RNG.integers(0, 255, (16, 20, 3)).astype(np.uint8) if colour else CT
    extra = {} if colour else {**HU, "VOILUTSequence": [lut(0, CURVE, 12)]}
    path = make(tmp_path, stored, name="QUIXOTE_ALONSO.dcm", PatientPosition="HFS", ViewPosition="QUIXOTE", **extra)
    picture = read_picture(path)
    assert "QUIXOTE" not in json.dumps(describe(picture)) and "QUIXOTE" not in repr(picture)
    assert "QUIXOTE" not in str(picture.source.carried.header)
    source = pydicom.dcmread(path)
    note = {"method": "tficomp", "seed": 3, "inputs": describe(picture)}
    writers = [(write_like, (picture.pixels, MASK)), (write_mask_like, (MASK,))]
    for number, (write, arrays) in enumerate(writers):
        out_path = write(picture, *arrays, tmp_path / f"o{number}.dcm", note)
        data = out_path.read_bytes()
        for value in [*IDENTITY.values(), "Quixote", "QUIXOTE", "ZX81"]:
            assert len(value) < 4 or value.encode() not in data, value
        out = pydicom.dcmread(out_path)
        walked = list(out.iterall())
        assert len(walked) > 30
        for element in walked:
            assert element.keyword in WRITTEN, element
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "StudyDate", "ViewPosition"):
            assert keyword not in out
        uids = [out.SOPInstanceUID, out.StudyInstanceUID, out.SeriesInstanceUID, out.FrameOfReferenceUID]
        old = {source.SOPInstanceUID, source.StudyInstanceUID, source.SeriesInstanceUID, source.FrameOfReferenceUID}
        assert all(UID(u).is_valid for u in uids) and len(set(uids)) == 4 and not old & set(uids)
        assert not any(u.encode() in data for u in old)
        assert out.file_meta.MediaStorageSOPInstanceUID == out.SOPInstanceUID
        assert out.file_meta.MediaStorageSOPClassUID == out.SOPClassUID
        assert out.SyntheticData == "YES" and out["SyntheticData"].tag == 0x0008001C
        assert out.ImageType[0] == "DERIVED" and out.DerivationDescription
        assert out.ContributingEquipmentSequence[0].Manufacturer == "Graft"
        assert out.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert read_provenance(out_path) == {**note, "synthetic": True}
        assert (out.PixelSpacing, out.ImagePositionPatient) == ([0.5, 0.75], [-120.5, -100.25, 42])
        assert out.PatientPosition == "HFS" and out.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    first = pydicom.dcmread(tmp_path / "o0.dcm")
    assert first.SOPClassUID == source.SOPClassUID
    again = pydicom.dcmread(write_like(picture, picture.pixels, MASK, tmp_path / "o0.dcm", note))
    assert again.SOPInstanceUID != first.SOPInstanceUID
    mask_file = pydicom.dcmread(tmp_path / "o1.dcm")
    shared = [(ds.StudyInstanceUID, ds.FrameOfReferenceUID) for ds in (first, again, mask_file)]
    assert len(set(shared)) == 1 and len({ds.SeriesInstanceUID for ds in (first, again, mask_file)}) == 3
    anew = read_picture(path)  # another reading is another study
    assert pydicom.dcmread(write_mask_like(anew, MASK, tmp_path / "n.dcm", note)).StudyInstanceUID != shared[0][0]
    np.testing.assert_array_equal(mask_file.pixel_array, MASK)
    np.testing.assert_array_equal(apply_voi_lut(mask_file.pixel_array, mask_file), MASK * 255)
    np.testing.assert_array_equal(read_mask(tmp_path / "o1.dcm", like=picture), MASK)
    with pytest.raises(ValueError, match="10240"):
        write_like(picture, picture.pixels, MASK, tmp_path / "long.dcm", {"x": "y" * 11000})
    assert not (tmp_path / "long.dcm").exists()


def test_writer_refuses_an_element_outside_the_list(tmp_path):
    """The last look before serialising: a name slipped into what the picture carries is stopped."""
    from graft_common.dicom_write import _bytes

    ds = Dataset()
    ds.PatientName = "QUIXOTE"
    with pytest.raises(RuntimeError, match="PatientName"):
        _bytes(ds)


def test_lossy_sources_stay_marked(tmp_path):
    picture = read_picture(FILES / "SC_rgb_jpeg_dcmtk.dcm")
    mask = np.zeros(picture.stored.shape[:2], bool)
    mask[2, 2] = True
    out = pydicom.dcmread(write_like(picture, picture.pixels, mask, tmp_path / "o.dcm", {}))
    assert out.LossyImageCompression == "01"


def test_bad_dicom(tmp_path):
    good = make(tmp_path, CT, **HU).read_bytes()

    def edited(**elements):
        ds = pydicom.dcmread(io.BytesIO(good))
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()

    for name, data, words in [
        ("none.dcm", edited(PixelData=None), "without integer pixels.*CT Image Storage"),
        ("sr.dcm", (FILES / "test-SR.dcm").read_bytes(), "without integer pixels"),
        ("cut.dcm", good[:-100], "bytes of pixels|cannot be read as DICOM"),
        ("half.dcm", good[:300], "DICOM"),
        ("wide.dcm", edited(Rows=60000, Columns=60000), "megapixels"),
        ("claims.dcm", edited(Rows=5000, Columns=5000), "of 50000000 bytes"),
        ("zero.dcm", edited(Rows=0), "size 20x0"),
        ("rows.dcm", edited(Rows=None), "cannot be read as DICOM"),
        ("bits.dcm", edited(BitsStored=17), "DICOM"),
        ("samples.dcm", edited(SamplesPerPixel=2), "2 samples"),
        ("photometric.dcm", edited(PhotometricInterpretation="QUIXOTE"), "DICOM"),
        ("slope.dcm", edited(RescaleSlope=0), "mapped back"),
        ("preamble.dcm", b"\0" * 128 + b"DICM", "DICOM"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            read_picture(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]
