"""Look into the attention of a diffusers UNet, or change it, as a `with` that always comes off.

    with record(unet, CrossColumns((5,), Where(factor=4)), rows=(1,)) as rec:
        unet(latents, t, encoder_hidden_states=text)
    heat = rec.mean()  # (1, 1, h, w)

Only the sites asked for leave the stock path, and only for as long as somebody changes something there: a recorded or idle
UNet gives bit-equal output. Contexts nest and may be left in any order.
"""

from .edit import edit
from .keep import Kept, KeptSite, keep_keys_values, use_keys_values
from .maps import SiteMaps, average_affinity, average_maps, resize_maps
from .processor import Call
from .record import CrossColumns, Record, SelfColumns, SelfMaps, record
from .sites import Site, Where, find_sites

__all__ = [
    "Call",
    "CrossColumns",
    "Kept",
    "KeptSite",
    "Record",
    "SelfColumns",
    "SelfMaps",
    "Site",
    "SiteMaps",
    "Where",
    "average_affinity",
    "average_maps",
    "edit",
    "find_sites",
    "keep_keys_values",
    "record",
    "resize_maps",
    "use_keys_values",
]
