"""Training draws of mobi's judges: crops and scenes in other light, blurred, moved, mirrored."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from mobi.detector import Seen
from tiny.mobi_judge_lessons import Lesson, in_grid


def spoil(crops: Float[Tensor, "B 3 s s"], gen: Generator) -> Float[Tensor, "B 3 s s"]:
    """Shifts, scales, blur, light and noise, so that the judge reads blurred paintings as well as renders."""
    count, side = len(crops), crops.shape[-1]

    def draw(*shape: int) -> Tensor:
        return torch.rand((count, *shape), generator=gen)

    theta = torch.zeros(count, 2, 3)
    grow, shift = 0.9 + 0.2 * draw(2), 0.16 * (draw(2) - 0.5)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = grow[:, 0], grow[:, 1], shift
    grid = F.affine_grid(theta, list(crops.shape), align_corners=False)
    crops = F.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)
    coarse = F.interpolate(crops, (side // 2, side // 2), mode="bilinear", antialias=True, align_corners=False)
    coarse = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    blur = draw(1, 1, 1) * (draw(1, 1, 1) < 0.4)
    crops = crops + blur * (coarse - crops)
    gain = 1 + 0.2 * torch.randn((count, 1, 1, 1), generator=gen)
    tint = 0.06 * torch.randn((count, 3, 1, 1), generator=gen)
    noise = 0.05 * draw(1, 1, 1) * torch.randn(crops.shape, generator=gen)
    return ((crops + 1) * gain - 1 + tint + noise).clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def varied(one: Lesson, gen: Generator) -> Lesson:
    """The lesson mirrored or not, turned about the lidar by up to 0.2 rad, in other light, some returns dropped."""
    dice = torch.rand(6, generator=gen)
    picture, boxes, view = one.seen.picture, one.boxes.clone(), one.view
    gain, lift = 1 + 0.4 * (dice[1] - 0.5), 30 * (dice[2] - 0.5)
    grain = 4 * torch.randn(picture.shape, generator=gen)
    picture = (picture.float() * gain + lift + grain).clamp(0, 255).to(torch.uint8)
    kept = torch.rand(len(one.seen.points), generator=gen) >= 0.15 * dice[3]
    points, pixels = one.seen.points[kept].clone(), one.seen.pixels[kept].clone()
    points[:, 3] *= 1 + 0.3 * (dice[4] - 0.5)
    if dice[0] < 0.5:
        picture, view = picture.flip(2), view.flip(1)
        points[:, 0], boxes[:, 0], boxes[:, 6] = -points[:, 0], -boxes[:, 0], torch.pi - boxes[:, 6]
        pixels[:, 0] = 1 - pixels[:, 0]
    angle = float(0.4 * (dice[5] - 0.5))
    turn_flat(points, angle)
    turn_flat(boxes, angle)
    boxes[:, 6] += angle
    inside = in_grid(points)
    seen = Seen(picture.contiguous(), points[inside], pixels[inside], one.seen.turn)
    return Lesson(seen, boxes, one.label, one.wanted, turn_view(view, angle))


def turn_flat(rows: Float[Tensor, "N c"], angle: float) -> None:
    """Turn x, y of each row counter-clockwise, in place."""
    c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    x, y = rows[:, 0].clone(), rows[:, 1].clone()
    rows[:, 0], rows[:, 1] = c * x - s * y, s * x + c * y


def turn_view(view: Tensor, angle: float) -> Tensor:
    """The camera's view (h, w) turned about the lidar, which stands at the middle of row 0's edge; nearest cell."""
    height, width = view.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5 - width / 2, indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], 1)
    turn_flat(places, -angle)
    column, row = (places[:, 0] + width / 2).floor().long(), places[:, 1].floor().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return (view[row.clamp(0, height - 1), column.clamp(0, width - 1)] & inside).view(height, width)
