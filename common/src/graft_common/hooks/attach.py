"""Put hooks on a UNet and take them off again, on every way out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
from torch import nn

from ..errors import InputError
from .processor import Hook, SiteProcessor
from .sites import Site
from .watch import Watch

When = Callable[[int], bool]


@contextmanager
def attach(
    unet: nn.Module, sites: Iterable[Site], hooks_for: Callable[[Site, Watch], Sequence[Hook]], changes: bool
) -> Iterator[Watch]:
    """Attach the hooks of each site for the time of the `with`; leave also when a later site refuses half-way.

    Args:
        hooks_for: the hooks of one site.
        changes: whether they can change the attention, which is only done where its math is known to the bit.

    Raises:
        InputError: the UNet is compiled, or a site's processor is not understood; nothing stays attached.
    """
    if why := _compiled(unet):
        raise InputError(
            f"unet: {why}, so hooks would be traced once and then go stale; pass the UNet as it was before"
        )
    sites = tuple(dict.fromkeys(sites))
    watch = Watch()
    with ExitStack() as undo:
        watch.follow(unet, sites, undo)
        for site in sites:
            module = unet.get_submodule(site.name)
            if why := _refuses(module, changes):
                raise InputError(f"unet: {site.name} {why}")
            for hook in hooks_for(site, watch):
                undo.callback(_detach, module, hook)
                _attach(module, hook)
        yield watch


def checked_rows(rows: Sequence[int] | None) -> tuple[int, ...] | None:
    """Batch rows as a tuple.

    Raises:
        InputError: empty, repeated or negative.
    """
    if rows is None:
        return None
    rows = tuple(rows)
    if not rows or len(set(rows)) < len(rows) or min(rows) < 0:
        raise InputError(f"rows={rows}: pass different batch indices from 0, or None for all")
    return rows


def _attach(module: Attention, hook: Hook) -> None:
    # Per module, never unet.set_attn_processor: that one wants every site at once and empties the dict it is given.
    if not isinstance(module.processor, SiteProcessor):
        module.set_processor(SiteProcessor(module.processor))
    module.processor.hooks.append(hook)


def _detach(module: Attention, hook: Hook) -> None:
    """Take one hook off; the last one puts the stock processor back. Any order of leaving works."""
    processor = module.processor
    if not isinstance(processor, SiteProcessor):
        return  # the caller has set another processor meanwhile, and keeps it
    if hook in processor.hooks:
        processor.hooks.remove(hook)
    if not processor.hooks:
        module.set_processor(processor.stock)


def _refuses(module: Attention, changes: bool) -> str | None:
    """Why hooks cannot stand at this module, and what to do about it; None when they can."""
    processor = module.processor.stock if isinstance(module.processor, SiteProcessor) else module.processor
    name = type(processor).__name__
    # Exact types: a subclass may do anything. Xformers' computes the same P, so looking on is fine.
    known = (AttnProcessor2_0, AttnProcessor) if changes else (AttnProcessor2_0, AttnProcessor, XFormersAttnProcessor)
    if type(processor) not in known:
        names = ", ".join(kind.__name__ for kind in known)
        return (
            f"has the processor {name}, whose math is not known here ({names}); call unet.set_default_attn_processor()"
        )
    if module.added_kv_proj_dim is not None or module.to_out is None:
        return "attends to text and image in one softmax, which hooks do not cover; leave it out by name"
    return None


def _compiled(unet: nn.Module) -> str | None:
    if hasattr(unet, "_orig_mod") or hasattr(unet.forward, "_torchdynamo_orig_callable"):
        return "it is wrapped by torch.compile"
    for name, module in unet.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            return f"{name or 'it'} is compiled by torch.compile"
    return None
