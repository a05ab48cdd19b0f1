"""Sensors by their makers' published design angles. Every unit differs: read its own calibration where there is one."""

from graft_common.rangeview.sensor import sensor_from_degrees

OS1_128 = sensor_from_degrees(
    name="os1-128",
    elevation=[22.5 - 45 * row / 127 for row in range(128)],
    azimuth=[0.0] * 128,
    rings=list(range(128)),
    columns=1024,
    source="nominal: Ouster OS1 datasheet, 128 channels over +22.5 to -22.5 degrees, taken as evenly spaced, mode 1024; "
    "azimuth offsets are given per unit only (read_ouster) and stand at 0",
)

HDL_64E = sensor_from_degrees(
    name="hdl-64e",
    elevation=[2 - 26.8 * row / 63 for row in range(64)],
    azimuth=[0.0] * 64,
    rings=[63 - row for row in range(64)],
    columns=2048,
    source="nominal: Velodyne HDL-64E S2 datasheet, +2 to -24.8 degrees, 64 equally spaced subdivisions; units differ by "
    "beams of a degree and have azimuth offsets (read_velodyne)",
)

# Channels 1 (top) to 64, degrees.
_PANDAR64_ELEVATION = """
14.882 11.032 8.059 5.057 3.04 2.028 1.86 1.688 1.522 1.351 1.184 1.013 0.846 0.675 0.508 0.337
0.169 0 -0.169 -0.337 -0.508 -0.675 -0.845 -1.013 -1.184 -1.351 -1.522 -1.688 -1.86 -2.028 -2.198 -2.365
-2.536 -2.7 -2.873 -3.04 -3.21 -3.375 -3.548 -3.712 -3.884 -4.05 -4.221 -4.385 -4.558 -4.72 -4.892 -5.057
-5.229 -5.391 -5.565 -5.726 -5.898 -6.061 -7.063 -8.059 -9.06 -9.885 -11.032 -12.006 -12.974 -13.93 -18.889 -24.897
"""
# The six channels above and the ten below are in line; between them six neighbours at a time fan out.
_PANDAR64_AZIMUTH = [-1.042] * 6 + [1.042, 3.125, 5.208, -5.208, -3.125, -1.042] * 8 + [-1.042] * 10

PANDAR64 = sensor_from_degrees(
    name="pandar64",
    elevation=[float(angle) for angle in _PANDAR64_ELEVATION.split()],
    azimuth=_PANDAR64_AZIMUTH,
    rings=list(range(64)),
    columns=1800,
    frame="right-forward-up",
    source="nominal: the default angle tables of Hesai's own HesaiLidar_General_SDK for Pandar64; 0.2 degree columns "
    "(10 Hz); ring = channel - 1",
)
