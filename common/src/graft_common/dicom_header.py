"""What may travel from one DICOM file to another: numbers of geometry and display, and terms from closed lists.

Free text, names, dates, times, identifiers and private elements are not on the list, so they cannot travel, whatever
the source holds. Burned-in identity (text drawn into the pixels) cannot be seen from here: screen such files before
use.
"""

import math
import re
from typing import Any

import numpy as np

NUMBERS = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "EstimatedRadiographicMagnificationFactor",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelIntensityRelationshipSign",
)
TERMS = {
    "Modality": "CR CT MR US MG DX PT NM XA RF IO PX OP OPT OCT XC SM ES GM OT BMD BI DG IVUS LS RG RTIMAGE TG",
    "RescaleType": "HU US OD MGML Z_EFF ED EDW HU_MOD PCT",
    "VOILUTFunction": "LINEAR LINEAR_EXACT SIGMOID",
    "PresentationLUTShape": "IDENTITY INVERSE",
    "PixelIntensityRelationship": "LIN LOG DISP",
    "Laterality": "L R",
    "ImageLaterality": "L R U B",
    "ViewPosition": "AP PA LL RL RLD LLD RLO LLO CC MLO ML LM LMO XCC XCCL XCCM FB SIO ISO CV",
    "PatientPosition": "HFP HFS HFDR HFDL FFP FFS FFDR FFDL LFP LFS RFP RFS AFDR AFDL PFDR PFDL",
    "BurnedInAnnotation": "YES NO",
    "LossyImageCompression": "00 01",
}
DIRECTION = re.compile(r"[APLRHF]{1,3}")  # Patient Orientation: anterior, posterior, left, right, head, foot
LUTS = ("ModalityLUTSequence", "VOILUTSequence")
# functional groups of enhanced multi-frame objects that hold the same attributes one level down
GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


def allowed(ds: Any, frame: int) -> Any:
    """A new pydicom Dataset with only the listed elements of `ds`, those of frame `frame` for an enhanced object.

    Elements with values outside the closed lists, or that are no finite numbers, are left behind.
    """
    from pydicom.dataset import Dataset

    out = Dataset()
    for level in _levels(ds, frame):
        for keyword in NUMBERS:
            values = _values(level.get(keyword))
            if values and all(math.isfinite(float(v)) for v in values):
                setattr(out, keyword, values if len(values) > 1 else values[0])
        for keyword, terms in TERMS.items():
            if (value := str(level.get(keyword, ""))) in terms.split():
                setattr(out, keyword, value)
        directions = _values(level.get("PatientOrientation"))
        if len(directions) == 2 and all(DIRECTION.fullmatch(str(v)) for v in directions):
            out.PatientOrientation = [str(v) for v in directions]
        for keyword in LUTS:
            if level.get(keyword):
                setattr(out, keyword, [_lut(level.get(keyword)[0], ds.original_encoding[1] is not False)])
    return out


def _levels(ds: Any, frame: int) -> list[Any]:
    """The data set, then an enhanced object's groups shared by all frames, then those of this frame: the last wins."""
    levels = [ds]
    shared, each = ds.get("SharedFunctionalGroupsSequence"), ds.get("PerFrameFunctionalGroupsSequence")
    for item in ([shared[0]] if shared else []) + ([each[frame]] if each and frame < len(each) else []):
        levels += [group[0] for name in GROUPS if (group := item.get(name))]
    return levels


def _values(value: Any) -> list[Any]:
    """An element's values as a list of what pydicom made of them; empty where it is absent or blank."""
    from pydicom.multival import MultiValue

    if value is None or value == "":
        return []
    return [v for v in value if v is not None and v != ""] if isinstance(value, MultiValue | list) else [value]


def _lut(item: Any, little_endian: bool) -> Any:
    """A LUT item with its descriptor and data alone, data as a list of ints.

    Entries of another width than 16 are declared 16 bits wide, values unchanged: pydicom's index into the table has the
    entries' type and would wrap in a table of more than 256 entries of 8 bits. `lut_bits` keeps the declared width.
    """
    from pydicom.dataset import Dataset

    count, first, bits = (int(v) for v in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if little_endian else ">u2").tolist()
    count = count or 1 << 16
    data = [int(v) & 0xFFFF for v in (data if hasattr(data, "__len__") else [data])]
    if not 8 <= bits <= 16 or len(data) < count:
        raise ValueError(f"lookup table with {len(data)} of {count} entries of {bits} bits")
    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count & 0xFFFF, first, 16])
    lut.add_new("LUTData", "US", data[:count])
    lut.lut_bits = bits
    return lut
