"""The MObI authors' checkpoint: random tensors under their whole key set, in narrow widths, through the converter and the loader.

The key set is written down here layer by layer as latent-diffusion builds it, not derived from the converter.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graft_common.checkpoint import load_weights, read_config
from graft_common.errors import InputError
from graft_common.settings import ModelConfig

TOOLS = Path(__file__).resolve().parents[2] / "tools"
WIDTHS, HEADS, TOKEN, HIDDEN = (32, 64, 96, 96), 2, 32, 32  # changes of width where the public sizes have them
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def tools() -> Any:
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location("graft_tools_convert_mobi", TOOLS / "convert_checkpoint.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOLS))


@pytest.fixture
def narrow(tools: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The converter, with the full size's network swapped for one in narrow widths."""
    import random_pbe

    whole = random_pbe.configs
    monkeypatch.setattr(random_pbe, "configs", lambda _name, *parts: narrowed(whole("mobi-tiny", *parts)))
    monkeypatch.setattr(random_pbe, "settings", lambda name: random_pbe.Joint(hidden=HIDDEN))
    return tools


def narrowed(configs: Any) -> Any:
    for part in ("unet", "vae"):
        configs[f"{part}/config.json"] |= {"block_out_channels": list(WIDTHS)}
    return configs


def both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def attention(name: str, dim: int, context: int) -> Shapes:
    return {
        f"{name}.to_q.weight": (dim, dim), f"{name}.to_k.weight": (dim, context), f"{name}.to_v.weight": (dim, context),
        **both(f"{name}.to_out.0", dim, dim),
    }  # fmt: skip


def transformer(name: str, dim: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = both(f"{name}.norm", dim) | both(f"{name}.proj_in", dim, dim, 1, 1) | both(f"{name}.proj_out", dim, dim, 1, 1)
    shapes |= attention(f"{block}.attn1", dim, dim) | attention(f"{block}.attn2", dim, TOKEN)
    shapes |= both(f"{block}.ff.net.0.proj", 8 * dim, dim) | both(f"{block}.ff.net.2", dim, 4 * dim)
    shapes |= attention(f"{block}.cond_adapter_attn", dim, TOKEN)
    for side in ("camera", "lidar"):
        shapes |= attention(f"{block}.cross_modal_attn_{side}", dim, dim) | both(f"{block}.cross_modal_norm_{side}", dim)
        shapes |= both(f"{block}.cross_modal_connector_{side}", dim, dim)
    shapes |= both(f"{block}.cond_adapter_norm", dim) | both(f"{block}.cond_adapter_connector", dim, dim)
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= both(f"{block}.{norm}", dim)
    return shapes


def unet_block(name: str, before: int, after: int) -> Shapes:
    shapes = both(f"{name}.in_layers.0", before) | both(f"{name}.in_layers.2", after, before, 3, 3)
    shapes |= both(f"{name}.emb_layers.1", after, 4 * WIDTHS[0])
    shapes |= both(f"{name}.out_layers.0", after) | both(f"{name}.out_layers.3", after, after, 3, 3)
    return shapes if before == after else shapes | both(f"{name}.skip_connection", after, before, 1, 1)


def unet_keys() -> Shapes:
    first, last = WIDTHS[0], len(WIDTHS) - 1
    shapes = both("time_embed.0", 4 * first, first) | both("time_embed.2", 4 * first, 4 * first)
    shapes |= both("input_blocks.0.0", first, 9, 3, 3)
    number, width, skips = 1, first, [first]
    for level, dim in enumerate(WIDTHS):
        for _ in range(2):
            shapes |= unet_block(f"input_blocks.{number}.0", width, dim)
            shapes |= transformer(f"input_blocks.{number}.1", dim) if level != last else {}
            width, number = dim, number + 1
            skips.append(dim)
        if level != last:
            shapes |= both(f"input_blocks.{number}.0.op", dim, dim, 3, 3)
            number += 1
            skips.append(dim)
    shapes |= unet_block("middle_block.0", width, width) | transformer("middle_block.1", width)
    shapes |= unet_block("middle_block.2", width, width)
    number = 0
    for level, dim in reversed(list(enumerate(WIDTHS))):
        for i in range(3):
            shapes |= unet_block(f"output_blocks.{number}.0", width + skips.pop(), dim)
            shapes |= transformer(f"output_blocks.{number}.1", dim) if level != last else {}
            if i == 2 and level:
                shapes |= both(f"output_blocks.{number}.{2 if level != last else 1}.conv", dim, dim, 3, 3)
            width, number = dim, number + 1
    return shapes | both("out.0", first) | both("out.2", 4, first, 3, 3)


def vae_block(name: str, before: int, after: int, kernel: tuple[int, int] = (3, 3)) -> Shapes:
    shapes = both(f"{name}.norm1", before) | both(f"{name}.conv1", after, before, *kernel)
    shapes |= both(f"{name}.norm2", after) | both(f"{name}.conv2", after, after, *kernel)
    return shapes if before == after else shapes | both(f"{name}.nin_shortcut", after, before, 1, 1)


def vae_middle(side: str, dim: int) -> Shapes:
    shapes = vae_block(f"{side}.mid.block_1", dim, dim) | vae_block(f"{side}.mid.block_2", dim, dim)
    for name in ("q", "k", "v", "proj_out"):
        shapes |= both(f"{side}.mid.attn_1.{name}", dim, dim, 1, 1)
    return shapes | both(f"{side}.mid.attn_1.norm", dim)


def vae_between() -> Shapes:
    """What the two autoencoders have in common."""
    last, width = len(WIDTHS) - 1, WIDTHS[0]
    shapes: Shapes = {}
    for level, dim in enumerate(WIDTHS):
        for i in range(2):
            shapes |= vae_block(f"encoder.down.{level}.block.{i}", width, dim)
            width = dim
        shapes |= both(f"encoder.down.{level}.downsample.conv", dim, dim, 3, 3) if level != last else {}
    shapes |= vae_middle("encoder", width) | both("encoder.norm_out", width) | both("encoder.conv_out", 8, width, 3, 3)
    shapes |= both("decoder.conv_in", width, 4, 3, 3) | vae_middle("decoder", width)
    for level, dim in reversed(list(enumerate(WIDTHS))):
        for i in range(3):
            shapes |= vae_block(f"decoder.up.{level}.block.{i}", width, dim)
            width = dim
        shapes |= both(f"decoder.up.{level}.upsample.conv", dim, dim, 3, 3) if level else {}
    return shapes | both("quant_conv", 8, 8, 1, 1) | both("post_quant_conv", 4, 4, 1, 1)


def camera_ends() -> Shapes:
    return both("encoder.conv_in", WIDTHS[0], 3, 3, 3) | both("decoder.norm_out", WIDTHS[0]) | both(
        "decoder.conv_out", 3, WIDTHS[0], 3, 3
    )  # fmt: skip


def lidar_ends() -> Shapes:
    width = WIDTHS[0]
    shapes = both("encoder.conv_in_lidar", width, 2, 1, 5) | both("decoder.conv_out_lidar", 2, width, 1, 5)
    for i in (1, 2):
        shapes |= vae_block(f"encoder.res_block_lidar{i}", width, width, (1, 5))
        shapes |= vae_block(f"decoder.res_block_lidar{i}", width, width, (1, 5)) | both(f"decoder.norm_out_lidar{i}", width)
    return shapes


def condition_keys() -> Shapes:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    import random_pbe

    config = random_pbe.configs("mobi-tiny", {}, {}, {})["image_encoder/config.json"]
    dim, layers = config["hidden_size"], (config["num_hidden_layers"] + 1) // 5
    with torch.device("meta"):
        clip = CLIPVisionModel(CLIPVisionConfig(**config)).state_dict()
    shapes = {f"transformer.vision_model.{k.removeprefix('vision_model.')}": tuple(t.shape) for k, t in clip.items()}
    shapes |= {"transformer.vision_model.embeddings.position_ids": (1, 17)} | both("final_ln", dim)
    for i in range(layers):
        block = f"mapper.resblocks.{i}"
        shapes |= both(f"{block}.attn.c_qkv", 3 * dim, dim) | both(f"{block}.attn.c_proj", dim, dim)
        shapes |= both(f"{block}.ln_1", dim) | both(f"{block}.ln_2", dim)
        shapes |= both(f"{block}.mlp.c_fc", 4 * dim, dim) | both(f"{block}.mlp.c_proj", dim, 4 * dim)
    shapes |= both("bbox_embedder.bbox_proj", TOKEN, 216) | both("bbox_embedder.second_linear.0", HIDDEN, TOKEN)
    return shapes | both("bbox_embedder.second_linear.2", HIDDEN, HIDDEN) | both("bbox_embedder.second_linear.4", TOKEN, HIDDEN)


@pytest.fixture(scope="module")
def released(tools: Any) -> dict[str, torch.Tensor]:
    shapes = {f"model.diffusion_model.{k}": s for k, s in unet_keys().items()}
    shapes |= {f"first_stage_model.{k}": s for k, s in (vae_between() | camera_ends()).items()}
    shapes |= {f"lidar_stage_model.{k}": s for k, s in lidar_ends().items()}
    conditions = condition_keys()
    shapes |= {f"cond_stage_model.{k}": s for k, s in conditions.items()}
    shapes |= both("proj_out", TOKEN, *conditions["final_ln.weight"])
    shapes |= {"learnable_vector": (1, 1, TOKEN), "bbox_uncond_vector": (1, 1, TOKEN)}
    gen = torch.Generator().manual_seed(0)
    state = {key: 0.05 * torch.randn(shape, generator=gen) for key, shape in shapes.items()}
    state |= {f"lidar_stage_model.{k}": state[f"first_stage_model.{k}"].clone() for k in vae_between()}
    return state | {"betas": torch.rand(1000), "alphas_cumprod": torch.rand(1000), "lvlb_weights": torch.rand(1000)}


@pytest.fixture
def theirs(released: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint's state; the mapping may be changed, its tensors may not."""
    return dict(released)


def test_key_set_is_the_full_size_one(tools: Any) -> None:
    """The narrow network has the keys of the full-size one, so that what is tested is the released file's whole key set."""
    import random_bundle
    import random_pbe

    stock = random_bundle.UNET, random_bundle.VAE, random_bundle.SCHEDULER
    full, small = random_pbe.configs("mobi", *stock), narrowed(random_pbe.configs("mobi-tiny", *stock))
    for part in ("unet", "vae"):
        keys, same = (random_pbe.stock_state(part, configs[f"{part}/config.json"]).keys() for configs in (full, small))
        assert keys == same
    for name, (tensors, _) in random_pbe.own_states("mobi", full["unet/config.json"], full["vae/config.json"]).items():
        other = random_pbe.own_states("mobi-tiny", small["unet/config.json"], small["vae/config.json"])[name][0]
        assert tensors.keys() == other.keys()


def test_every_weight_finds_its_place_and_the_folder_loads(
    narrow: Any, theirs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from mobi.bundle import joint_tensors, load_mobi

    torch.save({"state_dict": theirs, "epoch": 28, "global_step": 5}, tmp_path / "epoch=28.ckpt")
    out = tmp_path / "folder"
    assert narrow.main(["mobi", str(tmp_path / "epoch=28.ckpt"), str(out)]) == 0
    said = {"order": "sequential", "drops": "joint", "hidden": HIDDEN, "parts": "adapters", "guidance": 5.0}
    assert read_config(out / "joint.safetensors") == said

    mobi = load_mobi(ModelConfig(weights=str(out), device="cpu"))
    own, unet = joint_tensors(mobi), mobi.unet.state_dict()
    block, home = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0", "down_blocks.1.attentions.0.transformer_blocks.0"
    pairs = {
        f"{block}.cond_adapter_attn.to_k.weight": own[f"unet.{home}.adapter.attention.to_k.weight"],
        f"{block}.cond_adapter_connector.bias": own[f"unet.{home}.adapter.gate.bias"],
        f"{block}.cross_modal_attn_camera.to_out.0.bias": own[f"unet.{home}.to_camera.attention.to_out.0.bias"],
        f"{block}.cross_modal_norm_lidar.weight": own[f"unet.{home}.to_lidar.norm.weight"],
        f"{block}.attn2.to_v.weight": unet[f"{home}.base.attn2.to_v.weight"],
        "model.diffusion_model.output_blocks.5.2.conv.weight": unet["up_blocks.1.upsamplers.0.conv.weight"],
        "model.diffusion_model.output_blocks.2.1.conv.weight": unet["up_blocks.0.upsamplers.0.conv.weight"],
        "cond_stage_model.bbox_embedder.bbox_proj.weight": mobi.box_encoder.embed.weight,
        "cond_stage_model.bbox_embedder.second_linear.4.bias": mobi.box_encoder.mlp[4].bias,
        "bbox_uncond_vector": mobi.box_encoder.null[None, None],
        "learnable_vector": mobi.image_encoder.uncond_vector,
        "proj_out.weight": mobi.image_encoder.proj_out.weight,
        "cond_stage_model.mapper.resblocks.0.ln_2.weight": mobi.image_encoder.mapper.blocks[0].norm3.weight,
        "lidar_stage_model.encoder.res_block_lidar2.conv1.weight": mobi.range_vae.head[2].conv1.weight,
        "lidar_stage_model.decoder.norm_out_lidar2.bias": mobi.range_vae.tail[4].bias,
        "lidar_stage_model.decoder.conv_out_lidar.weight": mobi.range_vae.tail[6].weight,
        "first_stage_model.decoder.up.3.block.0.conv1.weight": mobi.vae.decoder.up_blocks[0].resnets[0].conv1.weight,
    }
    for key, value in pairs.items():
        assert torch.equal(theirs[key], value), key
    qkv = theirs["cond_stage_model.mapper.resblocks.0.attn.c_qkv.weight"]
    first = mobi.image_encoder.mapper.blocks[0].attn1
    assert torch.equal(qkv, torch.cat((first.to_q.weight, first.to_k.weight, first.to_v.weight)))
    stored = sum(t.numel() for t in load_weights(out / "joint.safetensors").values())
    assert stored == sum(
        t.numel() for key, t in theirs.items() if "adapter" in key or "cross_modal" in key or "bbox" in key
    )


def test_mapper_is_their_attention(narrow: Any, theirs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Sequence length 1: attention is value and projection, so a block is two residual MLP-like steps; by hand in float64."""
    from mobi.bundle import load_base

    torch.save(theirs, tmp_path / "a.ckpt")
    assert narrow.main(["mobi", str(tmp_path / "a.ckpt"), str(tmp_path / "folder")]) == 0
    block = load_base(str(tmp_path / "folder")).image_encoder.mapper.blocks[0].double()
    w = {k.removeprefix("cond_stage_model.mapper.resblocks.0."): t.double() for k, t in theirs.items() if "resblocks.0." in k}
    x = torch.randn(3, 1, w["ln_1.weight"].shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dim, linear, norm = x.shape[-1], torch.nn.functional.linear, torch.nn.functional.layer_norm
    value = linear(norm(x, (dim,), w["ln_1.weight"], w["ln_1.bias"]), w["attn.c_qkv.weight"], w["attn.c_qkv.bias"])[..., 2 * dim :]
    h = x + linear(value, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
    inner = linear(norm(h, (dim,), w["ln_2.weight"], w["ln_2.bias"]), w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])
    want = h + linear(torch.nn.functional.gelu(inner), w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    assert float((block(x) - want).abs().max()) < 1e-10


WRONG = {
    "missing": (lambda s: s.pop("model.diffusion_model.out.2.bias"), "conv_out.bias is none"),
    "left over": (lambda s: s.update({"control_model.x": torch.zeros(1)}), "control_model.x and 0 more belong to no part"),
    "left over inside": (lambda s: s.update({"model.diffusion_model.extra": torch.zeros(1)}), "1 weights under model.diffusion"),
    "left over condition": (
        lambda s: s.update({"cond_stage_model.label": torch.zeros(1)}), "unknown cond_stage_model.label",
    ),
    "another shape": (lambda s: s.update({"proj_out.bias": torch.zeros(5)}), r"proj_out.bias is (5,), wanted is (32,)"),
    "autoencoders differ": (
        lambda s: s.update({"lidar_stage_model.quant_conv.bias": torch.ones(8)}),
        "lidar_stage_model.quant_conv.bias differs from the camera's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(narrow: Any, theirs: dict[str, torch.Tensor], tmp_path: Path, name: str) -> None:
    import mobi_checkpoint

    change, said = WRONG[name]
    change(theirs)
    with pytest.raises(InputError) as error:
        mobi_checkpoint.write_mobi(theirs, tmp_path / "folder", "a.ckpt")
    assert str(error.value).startswith("a.ckpt: ") and said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "folder").exists()


def test_a_file_that_is_no_checkpoint_is_one_line(tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"none")
    assert tools.main(["mobi", str(tmp_path / "a.ckpt"), str(tmp_path / "folder")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "folder").exists()
