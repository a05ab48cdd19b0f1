"""Runs every installed Graft method's demo and shows the results on one page."""

__version__ = "0.1.0"
