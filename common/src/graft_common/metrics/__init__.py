"""Metrics with named networks and an interval beside every mean. Importing this loads no weights.

`lpips_tiny` and `clip_tiny` come from small networks that know the phantom worlds and nothing else; the published
networks are read from a path or hub id that the user names, and nothing is fetched unasked.
"""

from graft_common.metrics.frechet import features, frechet
from graft_common.metrics.intervals import Rows, bootstrap, jackknife, jackknifed, paired_difference, proportion
from graft_common.metrics.judges import Judges, load_judges
from graft_common.metrics.perceptual import lpips
from graft_common.metrics.pixelwise import channel_spread, psnr, ring_gradient, ssim
from graft_common.metrics.report import metrics_json, name
from graft_common.metrics.text_image import clip_scores, image_similarity, text_similarity

__all__ = [
    "Judges",
    "Rows",
    "bootstrap",
    "channel_spread",
    "clip_scores",
    "features",
    "frechet",
    "image_similarity",
    "jackknife",
    "jackknifed",
    "load_judges",
    "lpips",
    "metrics_json",
    "name",
    "paired_difference",
    "proportion",
    "psnr",
    "ring_gradient",
    "ssim",
    "text_similarity",
]
