"""Calibration files as the makers and drivers write them, whole and damaged."""

import json
import math

import numpy as np
import pytest

from graft_common.errors import InputError
from graft_common.rangeview import project, read_hesai, read_ouster, read_velodyne

ALTITUDE, AZIMUTH = [10.5, 3.25, -4.0, -20.0], [3.0, 1.0, -1.0, -3.0]
NESTED = {
    "beam_intrinsics": {"beam_altitude_angles": ALTITUDE, "beam_azimuth_angles": AZIMUTH},
    "lidar_data_format": {"columns_per_frame": 2048, "pixels_per_column": 4},
    "config_params": {"lidar_mode": "1024x10"},
}
FLAT = {"beam_altitude_angles": ALTITUDE, "beam_azimuth_angles": AZIMUTH, "lidar_mode": "512x20"}
HESAI = "Laser id,Elevation,Azimuth\n1,14.8,-1.042\n2,3.0,3.125\n3,-2.0,5.208\n4,-24.9,-1.042\n"
YAML = """lasers:
- {dist_correction: 1.2, laser_id: 1, rot_correction: 0.05, vert_correction: -0.1}
- {dist_correction: 1.2, laser_id: 0, rot_correction: -0.02, vert_correction: 0.03}
- {dist_correction: 1.2, laser_id: 2, rot_correction: 0.0, vert_correction: -0.4}
num_lasers: 3
distance_resolution: 0.002
"""


def xml(lasers, enabled):
    """Velodyne's db.xml: (id, rotation, vertical) in degrees."""
    points = "".join(
        f"<item><px><id_>{k}</id_><rotCorrection_>{r}</rotCorrection_><vertCorrection_>{v}</vertCorrection_></px></item>"
        for k, r, v in lasers
    )
    flags = "".join(f"<item>{flag}</item>" for flag in enabled)
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>\n<!DOCTYPE boost_serialization>\n'
        f"<boost_serialization><DB><distLSB_>0.2</distLSB_><enabled_><count>{len(enabled)}</count>{flags}</enabled_>"
        f"<points_><count>{len(lasers)}</count>{points}</points_></DB></boost_serialization>"
    )


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def degrees(values):
    return [round(math.degrees(v), 9) for v in values]


@pytest.mark.parametrize("tree,columns", [(NESTED, 2048), (FLAT, 512), (NESTED | {"lidar_mode": "x"}, 2048)])
def test_ouster(tmp_path, tree, columns):
    sensor = read_ouster(write(tmp_path, "os ü 1.json", json.dumps(tree)))
    assert degrees(sensor.elevation) == ALTITUDE and degrees(sensor.azimuth) == AZIMUTH
    assert sensor.rings == (0, 1, 2, 3) and sensor.columns == columns and sensor.frame == "forward-left-up"
    assert read_ouster(tmp_path / "os ü 1.json", columns=1024, far=100).far == 100


def test_ouster_points_land_in_their_columns(tmp_path):
    """The maker's formula: theta = 2 pi (1 - m / W) - azimuth, x = r cos theta cos phi (User Manual, lidar range to XYZ)."""
    sensor = read_ouster(write(tmp_path, "a.json", json.dumps(FLAT)))
    for beam in range(4):
        for m in (0, 100, 300, 511):
            # theirs starts column 0 at +x and turns clockwise as ours does, which starts at -x
            theta = 2 * math.pi * (1 - (m + 0.5) / 512) - math.radians(AZIMUTH[beam])
            phi = math.radians(ALTITUDE[beam])
            point = [9 * math.cos(theta) * math.cos(phi), 9 * math.sin(theta) * math.cos(phi), 9 * math.sin(phi), 1]
            at = (project(np.array([point]), sensor).index >= 0).nonzero().tolist()
            assert at == [[beam, (m + 256) % 512]]


def test_hesai(tmp_path):
    path = write(tmp_path, "pandar.csv", HESAI)
    sensor = read_hesai(path, columns=1800)
    assert degrees(sensor.elevation) == [14.8, 3.0, -2.0, -24.9] and sensor.rings == (0, 1, 2, 3)
    assert degrees(sensor.azimuth) == [-1.042, 3.125, 5.208, -1.042] and sensor.columns == 1800
    # newer files: a byte order mark, a version line, "Channel", other order of lines, and a checksum
    lines = HESAI.replace("Laser id", "Channel").split("\n")
    newer = "\ufeffEEFF,1,1\n" + "\r\n".join([lines[0], *lines[4:0:-1]]) + "\r\nd41d8cd98f\r\n"
    again = read_hesai(write(tmp_path, "new.csv", newer), columns=1800)
    assert (again.elevation, again.azimuth, again.rings) == (sensor.elevation, sensor.azimuth, sensor.rings)
    # clockwise from y, as Hesai computes x = d sin(azimuth): the second beam, fired at 90 degrees
    azimuth, phi = math.radians(90.1 + 3.125), math.radians(3.0)
    point = [8 * math.cos(phi) * math.sin(azimuth), 8 * math.cos(phi) * math.cos(azimuth), 8 * math.sin(phi), 1]
    assert (project(np.array([point]), sensor).index >= 0).nonzero().tolist() == [[1, 900]]


def test_velodyne_yaml_and_xml_agree(tmp_path):
    by_yaml = read_velodyne(write(tmp_path, "a.yaml", YAML), columns=2048)
    lasers = [(0, math.degrees(-0.02), math.degrees(0.03)), (1, math.degrees(0.05), math.degrees(-0.1))]
    lasers += [(2, 0, math.degrees(-0.4)), (3, 0, 99)]  # the last one is switched off
    by_xml = read_velodyne(write(tmp_path, "db.xml", xml(lasers, [1, 1, 1, 0])), columns=2048)
    for sensor in (by_yaml, by_xml):
        assert np.allclose(sensor.elevation, [0.03, -0.1, -0.4], atol=1e-12)
        assert np.allclose(sensor.azimuth, [0.02, -0.05, 0], atol=1e-12)  # subtracted from a clockwise azimuth
        assert sensor.rings == (2, 1, 0)  # the driver's ring 0 is the lowest


BAD = [
    (read_ouster, "not json", "cannot be read as Ouster metadata"),
    (read_ouster, json.dumps({"a": 1}), "beam_altitude_angles"),
    (read_ouster, json.dumps([1, 2]), "beam_altitude_angles"),
    (read_ouster, json.dumps(FLAT | {"beam_azimuth_angles": [1.0]}), "1 azimuth"),
    (read_ouster, json.dumps(FLAT | {"beam_altitude_angles": [1.0, None, 2.0, 3.0]}), "not a finite number"),
    (read_ouster, json.dumps(FLAT | {"beam_altitude_angles": [[1.0]] * 4}), "not a finite number"),
    (read_ouster, json.dumps(FLAT | {"beam_altitude_angles": [1.0, math.nan, 2.0, 3.0]}), "not a finite number"),
    (read_ouster, json.dumps(FLAT | {"beam_altitude_angles": [1.0, 1.0, 2.0, 3.0]}), "follows"),
    (read_ouster, json.dumps({**FLAT, "lidar_mode": "fast"}), "columns=1024"),
    (read_ouster, "", "empty"),
    (read_hesai, "a,b\n1,2\n", "Laser id,Elevation,Azimuth"),
    (read_hesai, "Laser id,Elevation,Azimuth\n", "no list"),
    (read_hesai, HESAI.replace("3.0", "three"), "cannot be read as Hesai"),
    (read_hesai, HESAI.replace(",-24.9,-1.042", ",-24.9"), "cannot be read as Hesai"),
    (read_hesai, HESAI.replace("3.0", "nan"), "not a finite number"),
    (read_hesai, HESAI.replace("\n2,", "\n1,"), "repeat"),
    (read_hesai, HESAI.replace("\n2,", "\n2.5,"), "whole number"),
    (read_hesai, HESAI.replace("\n2,", "\ninf,"), "not a finite number"),
    (read_hesai, b"\xff\xfe\x00", "cannot be read as Hesai"),
    (read_velodyne, "<DB>", "cannot be read as Velodyne"),
    (read_velodyne, "<DB></DB>", "no list vertCorrection_"),
    (read_velodyne, xml([(0, 0, 1)], [1]), "at least 2 rows"),
    (read_velodyne, xml([(0, 0, "x"), (1, 0, 2)], [1, 1]), "cannot be read as Velodyne"),
    (read_velodyne, xml([(0, 0, 1), (1, 0, 2)], [0, 0]), "no list"),
    (read_velodyne, "lasers: 3\n", "cannot be read as Velodyne"),
    (read_velodyne, "a: [", "cannot be read as Velodyne"),
    (read_velodyne, YAML.replace("0.03", "up"), "not a finite number"),
    (read_velodyne, YAML.replace("vert_correction: -0.4", "v: 1"), "cannot be read as Velodyne"),
    (read_velodyne, "!!python/object/apply:os.getcwd []\n", "cannot be read as Velodyne"),
]


@pytest.mark.parametrize("reader,text,words", BAD, ids=range(len(BAD)))
def test_damaged_files_say_what_to_do(tmp_path, reader, text, words):
    path = write(tmp_path, "damaged file", text)
    options = {} if reader is read_ouster else {"columns": 1024}
    with pytest.raises(InputError) as caught:
        reader(path, **options)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message


def test_missing_files_and_wrong_columns(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_ouster(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        read_hesai(tmp_path, columns=1800)
    with pytest.raises(InputError, match="3 columns"):
        read_hesai(write(tmp_path, "h.csv", HESAI), columns=3)
