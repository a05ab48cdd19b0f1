"""Every number that turns a measurement into a word of DermPrompt, calibrated on dermoscopy phantoms of training seeds."""

from dataclasses import dataclass

Lab = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the captioner. Lengths are shares of the picture's shorter side, areas of the region they are measured in.

    Calibrated on phantoms (spec 2.1 gives start values): the colours so that each of the phantoms' four lies as far as it can
    from the next class, ink's saturation so that a blue-gray lesion is no ink.
    """

    working: int = 256
    """Shorter side in pixels that larger pictures are reduced to before anything but size and position is measured."""
    small: float = 0.05
    """Lesions below this share of the picture are small."""
    large: float = 0.25
    """Lesions from this share on are large."""
    irregular_solidity: float = 0.90
    """Below this share of its convex hull a lesion is irregular."""
    irregular_circularity: float = 0.55
    """Below this 4 pi area / perimeter^2 a lesion is irregular."""
    round_circularity: float = 0.80
    """Least circularity of a round lesion."""
    round_eccentricity: float = 0.60
    """Eccentricity below which a lesion may be round."""
    elongated: float = 0.85
    """Eccentricity from which a lesion is elongated."""
    asymmetric: float = 0.08
    """Share of the lesion that misses its mirror image, mean over both axes, from which asymmetry is high."""
    blurred: float = 0.13
    """Width of the border over the radius of the disc of equal area, from which it is blurred."""
    colors: tuple[tuple[str, Lab], ...] = (
        ("white", (90.0, 2.0, 6.0)),
        ("red", (42.0, 42.0, 22.0)),
        ("light-brown", (66.0, 16.0, 31.0)),
        ("dark-brown", (38.0, 19.0, 29.5)),
        ("blue-gray", (43.0, -2.0, -19.0)),
        ("black", (13.0, 3.0, 3.0)),
    )
    """CIELAB prototypes (D65, 2 degrees); a pixel has the colour of the nearest one."""
    color_share: float = 0.08
    """Least share of the lesion that a colour must cover to be named."""
    rim: float = 0.35
    """Pixels nearer to the border than this share of the lesion's largest inner distance do not count for its colours."""
    ita: tuple[tuple[str, float], ...] = (
        ("very-light", 55.0), ("light", 41.0), ("intermediate", 28.0), ("tan", 10.0), ("brown", -30.0), ("dark", -90.0),
    )  # fmt: skip
    """Skin is of the first class whose typology angle (degrees) it exceeds."""
    margin: float = 0.06
    """Skin nearer to the lesion than this does not count as skin."""
    faint: float = 3.0
    """Mean Delta E from the skin below which nothing is a lesion."""
    speck: float = 0.004
    """Share of the picture below which a region is no lesion."""
    hair_kernel: float = 17 / 256
    """Arm to arm width of the cross that closes hairs."""
    hair_contrast: float = 10.0
    """Grey levels (of 255) that a hair is darker than its closing."""
    hair_length: float = 0.20
    """Diagonal of the box around a dark thread from which it is a hair and no tick or speck."""
    hair_sparse: float = 0.01
    """Share of the skin from which hair is sparse."""
    hair_dense: float = 0.05
    """Share of the skin from which hair is dense."""
    ink_hue: tuple[float, float] = (200.0, 290.0)
    """Hue of ink, degrees."""
    ink_saturation: float = 0.50
    """Least saturation of ink."""
    ink_value: float = 0.20
    """Least value (HSV) of ink; the hue of darker pixels is noise."""
    ink_share: float = 0.005
    """Share of the skin from which ink is named."""
    corner: float = 0.05
    """Side of the four corner squares."""
    corner_dark: float = 20.0
    """Mean L* below which a corner is dark."""
    ruler_depth: tuple[float, float] = (0.01, 0.05)
    """Band along a side, from and to, in which ticks are looked for."""
    ruler_pitch: tuple[float, float] = (0.04, 0.16)
    """Least and largest distance of ticks."""
    ruler_regular: float = 0.55
    """Share of a side's dark marks that one pitch must explain."""
    ruler_contrast: float = 25.0
    """Grey levels by which the ticks of a ruler are darker than what lies between them."""
    bubbles: bool = False
    """Look for bright closed rings."""
    bubble_round: float = 0.80
    """Least circularity of a bubble."""


DEFAULT = Thresholds()
