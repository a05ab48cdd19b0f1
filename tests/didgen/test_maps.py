"""Which grids are read, and forwards that end early."""

import pytest
import torch

from didgen.maps import attention_levels, map_grids, until_level
from graft_common.errors import InputError
from graft_common.hooks import CrossColumns, Where, record

SD = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


@pytest.fixture
def sd_like(tiny_unet):
    return tiny_unet(block_out_channels=(8,) * 4, down_block_types=SD, up_block_types=UP, sample_size=64)


def test_the_grids_are_those_of_the_paper_at_512_and_follow_the_size(sd_like, tiny_unet):
    grids = map_grids(sd_like, (64, 64))
    assert (grids.cross, grids.self_, grids.level) == ((16, 16), (32, 32), 1)
    wide = map_grids(sd_like, (64, 96))
    assert (wide.cross, wide.self_) == ((16, 24), (32, 48))
    tiny = tiny_unet()
    assert map_grids(tiny, (16, 16)).cross == map_grids(tiny, (16, 16)).self_ == (16, 16)
    assert (map_grids(tiny, (32, 32)).cross, map_grids(tiny, (32, 32)).self_) == ((16, 16), (32, 32))


def test_levels_are_the_grids_that_sites_are_seen_on(sd_like):
    with record(sd_like, CrossColumns((0,)), over="last") as seen, torch.no_grad():
        sd_like(torch.randn(1, 4, 64, 40), 10, encoder_hidden_states=torch.randn(1, 5, 12))
    assert {m.grid for m in seen.maps()} == set(attention_levels(sd_like, (64, 40)).values())


def test_a_network_without_cross_attention_is_refused(tiny_unet):
    plain = tiny_unet(
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type="UNetMidBlock2D"
    )
    with pytest.raises(InputError, match="no cross-attention"):
        map_grids(plain, (16, 16))


def test_an_early_end_gives_the_same_maps_and_the_same_gradient(sd_like):
    x, text = torch.randn(1, 4, 64, 64, requires_grad=True), torch.randn(1, 5, 12)
    ran: list[int] = []
    sd_like.up_blocks[3].register_forward_hook(lambda *_: ran.append(1))
    found = []
    for early in (False, True):
        want = CrossColumns((2,), Where(grid=(16, 16)))
        with record(sd_like, want, grad=True, mode="ride") as seen:
            if early:
                with until_level(sd_like, 1):
                    sd_like(x, 10, encoder_hidden_states=text)
            else:
                sd_like(x, 10, encoder_hidden_states=text)
        maps = seen.mean(0)
        found.append((maps.detach(), torch.autograd.grad(maps.square().sum(), x)[0]))
    assert len(ran) == 1  # the finest block ran once, without the early end
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-12)
    with torch.no_grad():
        sd_like(x, 10, encoder_hidden_states=text)
    assert len(ran) == 2  # nothing was left behind
