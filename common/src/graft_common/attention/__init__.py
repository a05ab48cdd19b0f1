"""Attention, and what can be read off its probabilities without forming them."""

from .dispatch import Backend, attend, attend_columns, columns_only, mean_map, propagate, refuses
from .reference import reference
from .request import Request, checked_request

__all__ = [
    "Backend",
    "Request",
    "attend",
    "attend_columns",
    "checked_request",
    "columns_only",
    "mean_map",
    "propagate",
    "reference",
    "refuses",
]
