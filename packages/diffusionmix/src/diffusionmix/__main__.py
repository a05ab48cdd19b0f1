"""`python -m diffusionmix`."""

from diffusionmix.cli import entry

entry()
