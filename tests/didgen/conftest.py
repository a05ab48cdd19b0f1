"""A small network that knows the placeholders: tiny-sd with two more rows, as training starts from it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def untrained():
    """`Model` on tiny-sd with placeholders that no training has seen; shared, so do not change it."""
    from didgen.tokens import add_placeholders
    from didgen.weights import Model
    from graft_common import bundle as bundles

    base = bundles.load("tiny-sd")
    add_placeholders(base.tokenizer, base.text_encoder)
    return Model(base, {"eta": 20.0, "box": 20.0}, {}, base.folder)


@pytest.fixture(scope="session")
def saved(untrained, tmp_path_factory) -> Path:
    """The same as a full bundle on disk, the form that `train` writes."""
    from diffusers import DDIMScheduler

    from graft_common import bundle as bundles

    base, folder = untrained.bundle, tmp_path_factory.mktemp("bundle") / "with_placeholders"
    bundles.save(
        folder, unet=base.unet, vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer,
        scheduler=DDIMScheduler.from_config(base.schedule),
    )  # fmt: skip
    return folder
