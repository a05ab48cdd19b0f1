"""Thousands of damaged files: a reader gives a sound picture or one InputError, fast and in little memory."""

import io
import resource
import time

import cv2
import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from graft_common.errors import InputError
from graft_common.pixels import read_mask, read_picture

EACH = 115  # damaged copies of each of the 18 seeds
MEMORY = 400 << 20  # bytes that the whole run may add to the peak


def smooth(shape, top, dtype):
    grid = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (shape[0] + shape[1])
    array = (grid * top).astype(dtype)
    return array if len(shape) == 2 else np.repeat(array[..., None], shape[2], 2)


def pillow(array, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, **options)
    return out.getvalue()


def tiff(array, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="rgb" if array.ndim == 3 else "minisblack", **options)
    return out.getvalue()


def dicom(array, syntax, **elements):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.1234"
    ds.Rows, ds.Columns = array.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = 8 * array.dtype.itemsize
    ds.BitsStored = 12 if ds.BitsAllocated == 16 else 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 0
    ds.PixelSpacing = [1, 1]
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.PixelData = array.tobytes()
    ds["PixelData"].VR = "OW"
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax.is_compressed:
        from pydicom.encaps import encapsulate

        form = {"format": "JPEG"} if syntax == JPEGBaseline8Bit else {"format": "JPEG2000", "no_jp2": True}
        ds.PixelData = encapsulate([pillow(array, **form)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def seeds(folder):
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 0, 12], np.arange(256, dtype="<u2").tobytes()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    for name, image in {
        "plain.nii": nib.Nifti1Image(smooth((12, 14, 3), 500, np.int16), np.eye(4)),
        "packed.nii.gz": nib.Nifti1Image(smooth((12, 14, 3), 500, np.float32), np.eye(4)),
        "two.nii": nib.Nifti2Image(smooth((12, 14, 3), 200, np.uint8), np.eye(4)),
    }.items():
        nib.save(image, folder / name)
    window = {"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": 1, "RescaleIntercept": -1024}
    wide = smooth((14, 16), 4000, np.uint16)
    return {
        "png8": pillow(smooth((14, 16, 3), 255, np.uint8), format="PNG"),
        "png16": pillow(smooth((14, 16), 60000, np.uint16), format="PNG"),
        "png16c": cv2.imencode(".png", smooth((14, 16, 3), 60000, np.uint16))[1].tobytes(),
        "pngP": pillow(smooth((14, 16), 255, np.uint8), format="PNG", transparency=3),
        "jpeg": pillow(smooth((14, 16, 3), 255, np.uint8), format="JPEG"),
        "jpegp": pillow(smooth((14, 16), 255, np.uint8), format="JPEG", progressive=True),
        "tiff8": pillow(smooth((14, 16, 3), 255, np.uint8), format="TIFF", compression="tiff_lzw"),
        "tiff16": tiff(smooth((14, 16), 60000, np.uint16), compression="zlib"),
        "tiff16c": tiff(smooth((14, 16, 3), 60000, np.uint16)),
        "tifff": tiff(smooth((14, 16), 1, np.float32)),
        "dicom": dicom(wide, ExplicitVRLittleEndian, **window),
        "dicomi": dicom(wide, ImplicitVRLittleEndian, VOILUTSequence=[lut]),
        "rle": dicom(wide, RLELossless, **window),
        "jpegd": dicom(smooth((14, 16), 255, np.uint8), JPEGBaseline8Bit, WindowCenter=90, WindowWidth=100),
        "j2k": dicom(smooth((14, 16), 255, np.uint8), JPEG2000Lossless),
        **{p.name: p.read_bytes() for p in sorted(folder.iterdir())},
    }


def damage(data, rng):
    """One of: flipped bits, a cut, extreme header bytes, bytes put in or taken out, noise, other header bytes."""
    out, kind = bytearray(data), rng.integers(7)
    if kind == 0:
        for at in rng.integers(0, len(out), rng.integers(1, 9)):
            out[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[rng.integers(1, len(out)) :]
    elif kind == 2:  # sizes and counts live near the front
        at = int(rng.integers(0, min(len(out), 500)))
        out[at : at + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]
        )
    elif kind == 3:
        at = int(rng.integers(0, len(out)))
        out[at:at] = rng.bytes(int(rng.integers(1, 20)))
    elif kind == 4:
        at = int(rng.integers(0, len(out)))
        del out[at : at + int(rng.integers(1, 20))]
    elif kind == 5:
        at = int(rng.integers(0, len(out)))
        out[at : at + 16] = rng.bytes(16)
    else:
        for at in rng.integers(0, min(len(out), 500), 3):
            out[at] = rng.integers(256)
    return bytes(out)


def sound(picture):
    assert picture.pixels.dtype == np.float32 and np.isfinite(picture.pixels).all()
    assert np.abs(picture.pixels).max() <= 1 and picture.pixels.shape[1:] == picture.stored.shape[:2]


@pytest.mark.timeout(300)
def test_damaged_files_give_a_picture_or_one_input_error(tmp_path, capfd, monkeypatch):
    (tmp_path / "seeds").mkdir()
    files = seeds(tmp_path / "seeds")
    target = tmp_path / "x"
    held = {}  # thousands of tiny files would measure the disk
    monkeypatch.setattr("graft_common.pixels.read_bytes", lambda path, where: held["data"])
    for name, data in files.items():
        held["data"] = data
        try:
            sound(read_picture(target, slice_index=1 if ".nii" in name else None))
        except InputError as error:
            pytest.fail(f"the undamaged seed {name} must be readable: {error}")
    rng = np.random.default_rng(20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes, slowest = {}, (0.0, "")
    for name, data in files.items():
        for number in range(EACH):
            held["data"] = damage(data, rng)
            start = time.perf_counter()
            try:
                if number % 8 == 7:
                    read_mask(target, slice_index=1 if ".nii" in name else None)
                else:
                    sound(read_picture(target, slice_index=1 if ".nii" in name else None))
                outcomes[name] = outcomes.get(name, 0) + 1
            except InputError as error:
                text = str(error)
                assert "\n" not in text and text.isprintable() and str(target) in text, (name, number, text)
            except BaseException as error:
                raise AssertionError(f"{name} number {number}: {type(error).__name__}: {error}") from error
            slowest = max(slowest, (time.perf_counter() - start, f"{name} {number}"))
    assert len(files) * EACH >= 2000
    assert slowest[0] < 5, slowest
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    assert grown < MEMORY, f"{grown >> 20} MiB"
    # the test would be blind if every damaged file failed, or none did
    assert 0.1 < sum(outcomes.values()) / (len(files) * EACH) < 0.9
    print("read although damaged:", outcomes, "slowest", slowest, "MiB", grown >> 20)
    assert capfd.readouterr().err == ""  # decoders keep off the user's terminal
