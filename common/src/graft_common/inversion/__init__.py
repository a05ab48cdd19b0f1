"""Walks between clean and noise, both ways: DDIM and DPM-Solver++ (2M), refinements, and the prompt to invert under."""

from graft_common.inversion.ddim import ddim_grid, ddim_move, ddim_walk
from graft_common.inversion.dpm import (
    DpmMemory,
    DpmRun,
    clean_from_model,
    dpm_run,
    dpm_step,
    dpm_walk,
    walk_indices,
)
from graft_common.inversion.prompt import exceptional_id, exceptional_prompt
from graft_common.inversion.refine import NullText, Refined, ddim_invert_refined, dpm_invert_refined, null_text
from graft_common.inversion.schedule import DpmGrid, dpm_grid, grid_from_scheduler, model_time

__all__ = [
    "DpmGrid",
    "DpmMemory",
    "DpmRun",
    "NullText",
    "Refined",
    "clean_from_model",
    "ddim_grid",
    "ddim_invert_refined",
    "ddim_move",
    "ddim_walk",
    "dpm_grid",
    "dpm_invert_refined",
    "dpm_run",
    "dpm_step",
    "dpm_walk",
    "exceptional_id",
    "exceptional_prompt",
    "grid_from_scheduler",
    "model_time",
    "null_text",
    "walk_indices",
]
