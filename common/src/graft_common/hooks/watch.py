"""What one `with` sees of the UNet's forwards: their count, the latent's size, and the (h, w) that each site works on."""

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import InputError
from .sites import Grid, Site


class Watch:
    """Mutable notes of one hook context; filled by forward pre-hooks, never by guessing.

    Attributes:
        step: index of the current UNet forward within the context, from 0; -1 before the first.
        latent: (H, W) of the current forward's input.
        grids: (h, w) of the last 4-D input of each watched module, by name.
        seen: every grid that a site was seen to work on.
    """

    def __init__(self):
        self.step = -1
        self.latent: Grid = (0, 0)
        self.grids: dict[str, Grid] = {}
        self.seen: set[Grid] = set()

    def follow(self, unet: nn.Module, sites: tuple[Site, ...], undo: ExitStack) -> None:
        """Attach the pre-hooks; `undo` takes them off."""
        undo.callback(unet.register_forward_pre_hook(self._on_unet, with_kwargs=True).remove)
        for name in dict.fromkeys(name for site in sites for name in _around(site.name)):
            hook = partial(self._on_block, name)
            undo.callback(unet.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True).remove)

    def grid_of(self, site: Site, hidden_states: Tensor) -> Grid:
        """True (h, w) of the site: of its own input where that is 4-D, else of the nearest module around it whose input was.

        Raises:
            InputError: no module around the site saw as many cells as the site has queries.
        """
        if hidden_states.ndim == 4:
            grid = (hidden_states.shape[2], hidden_states.shape[3])
            self.seen.add(grid)
            return grid
        queries = hidden_states.shape[1]
        for name in _around(site.name):
            around = self.grids.get(name)
            if around is not None and around[0] * around[1] == queries:
                self.seen.add(around)
                return around
        raise InputError(
            f"sites: {site.name} has {queries} queries that are no (h, w) of a module around it; name others"
        )

    def _on_unet(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        # With gradients on, checkpointed blocks run again in backward, perhaps after the hooks came off.
        if torch.is_grad_enabled() and any(getattr(m, "gradient_checkpointing", False) for m in module.modules()):
            raise InputError(
                "unet: gradient checkpointing is on, so backward would run the hooked sites again; "
                "call unet.disable_gradient_checkpointing() or run under torch.no_grad()"
            )
        self.step += 1
        self.latent = _input_grid(args, kwargs) or (0, 0)

    def _on_block(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        grid = _input_grid(args, kwargs)
        if grid is not None:
            self.grids[name] = grid


def _around(name: str) -> list[str]:
    """Names of the modules around a site, the nearest first, the UNet itself left out."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _input_grid(args: tuple, kwargs: dict) -> Grid | None:
    first = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
    return (first.shape[2], first.shape[3]) if isinstance(first, Tensor) and first.ndim == 4 else None
