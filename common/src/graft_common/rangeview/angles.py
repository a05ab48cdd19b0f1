"""Yaw and pitch <-> column and row of the range grid, as continuous numbers (mobi spec 2.2)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.rangeview.sensor import Sensor


def beam_position(pitch: Float[Tensor, "*s"], sensor: Sensor) -> Float[Tensor, "*s"]:
    """Beams counted from the lowest (0) to the highest (H - 1), linear between neighbours and beyond the ends.

    Rounding it picks the beam nearest in elevation. Pitch in radians.
    """
    last = sensor.rows - 1
    if sensor.even:
        low, high = sensor.elevation[-1], sensor.elevation[0]
        return last * (pitch - low) / (high - low)
    table = _table(sensor, pitch)
    below = (torch.searchsorted(table, pitch.contiguous()) - 1).clamp(0, last - 1)
    return below + (pitch - table[below]) / (table[below + 1] - table[below])


def beam_pitch(position: Float[Tensor, "*s"], sensor: Sensor) -> Float[Tensor, "*s"]:
    """Radians; the inverse of `beam_position`."""
    last = sensor.rows - 1
    table = _table(sensor, position)
    below = position.floor().clamp(0, last - 1).long()
    return table[below] + (position - below) * (table[below + 1] - table[below])


def column_position(yaw: Float[Tensor, "*s"], sensor: Sensor) -> Float[Tensor, "*s"]:
    """Column as a real number: 0 at yaw = -pi, W at +pi; its floor is the column. Yaw is clockwise, -atan2(y, x)."""
    # a tensor on the device: CUDA would multiply by a rounded 1 / pi, which moves the axes off their exact columns
    half_turn = torch.full((), math.pi, dtype=yaw.dtype, device=yaw.device)
    return sensor.columns * (yaw / half_turn + 1) / 2


def wrap(yaw: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The same direction in [-pi, pi], for yaw within (-3 pi, 3 pi); what is inside already stays bit-equal."""
    turn = (yaw < -math.pi).to(yaw.dtype) - (yaw > math.pi).to(yaw.dtype)
    return yaw + 2 * math.pi * turn


def pixel_angles(sensor: Sensor, like: Tensor) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Pitch and yaw of every pixel's centre: the row's beam, and the column's middle (mobi spec 2.2, item 7)."""
    pitch = like.new_tensor(sensor.elevation)[:, None].expand(-1, sensor.columns)
    # exact in float64, rounded once
    column = (torch.arange(sensor.columns, dtype=torch.float64, device=like.device) + 0.5) / sensor.columns
    yaw = (math.pi * (2 * column - 1)).to(like.dtype)[None].expand(sensor.rows, -1)
    if sensor.offset:
        yaw = wrap(yaw + like.new_tensor(sensor.azimuth)[:, None])
    return pitch, yaw


def direction(pitch: Float[Tensor, "*s"], yaw: Float[Tensor, "*s"]) -> Float[Tensor, "*s 3"]:
    """Unit vectors (x, y, z)."""
    flat = pitch.cos()
    return torch.stack([yaw.cos() * flat, -yaw.sin() * flat, pitch.sin()], -1)


def _table(sensor: Sensor, like: Tensor) -> Float[Tensor, "H"]:
    """Elevations from the lowest up."""
    return like.new_tensor(sensor.elevation[::-1])
