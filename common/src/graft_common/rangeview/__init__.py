"""Lidar sweeps as range views, and 3D boxes in them and in the camera (mobi spec 2.1 to 2.5)."""

from .angles import pixel_angles
from .boxes import FACES, MASK_SCALE, Box3d, depth_band, nearest_distance, points_in_box
from .camera import (
    Camera,
    CameraCrop,
    box_polygons,
    camera_box_in_crop,
    camera_hole,
    camera_mask,
    camera_pixels,
    camera_rectangle,
    choose_camera_crop,
    project_camera,
)
from .crop import (
    RangeCrop,
    box_in_crop,
    box_to_range,
    choose_crop,
    crop_columns,
    crop_width,
    enlarge,
    put_crop,
    range_mask,
    reduce,
    take_crop,
)
from .nominal import HDL_64E, OS1_128, PANDAR64
from .normalise import ALPHA, normalise_depth, normalise_intensity, restore_depth, restore_intensity
from .project import RangeView, project, project_batch
from .readers import read_hesai, read_ouster, read_velodyne
from .sensor import NUSCENES, Sensor, sensor_from_degrees
from .unproject import grid_points, has_return, metres, stored_depth, unproject, unproject_batch

__all__ = [
    "ALPHA",
    "FACES",
    "HDL_64E",
    "MASK_SCALE",
    "NUSCENES",
    "OS1_128",
    "PANDAR64",
    "Box3d",
    "Camera",
    "CameraCrop",
    "RangeCrop",
    "RangeView",
    "Sensor",
    "box_in_crop",
    "box_polygons",
    "box_to_range",
    "camera_box_in_crop",
    "camera_hole",
    "camera_mask",
    "camera_pixels",
    "camera_rectangle",
    "choose_camera_crop",
    "choose_crop",
    "crop_columns",
    "crop_width",
    "depth_band",
    "enlarge",
    "grid_points",
    "has_return",
    "metres",
    "nearest_distance",
    "normalise_depth",
    "normalise_intensity",
    "pixel_angles",
    "points_in_box",
    "project",
    "project_batch",
    "project_camera",
    "put_crop",
    "range_mask",
    "read_hesai",
    "read_ouster",
    "read_velodyne",
    "reduce",
    "restore_depth",
    "restore_intensity",
    "sensor_from_degrees",
    "stored_depth",
    "take_crop",
    "unproject",
    "unproject_batch",
]
