"""The full-size random bundles: keys, shapes and configurations against diffusers' and transformers' own classes.

Nothing full-size is written here: networks stand on the meta device, and what is loaded is the same layout with narrow
networks.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from graft_common import bundle
from graft_common.errors import InputError
from graft_common.inversion import exceptional_prompt

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))  # it imports tools/tiny
    spec = importlib.util.spec_from_file_location("graft_tools_random_bundle", TOOLS / "random_bundle.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tool):
    return tool.public_vocabulary()


def count(shapes):
    return sum(int(np.prod(shape)) for shape, floating in shapes.values() if floating)


PUBLIC = {"sd14": (859_520_964, 123_060_480, 83_653_863), "sd21": (865_910_724, 340_387_840, 83_653_863)}


@pytest.mark.parametrize("name", PUBLIC)
def test_parameter_counts_are_the_public_ones(tool, name):
    model = tool.MODELS[name]
    text = tool.text_shapes(model.text | {"vocab_size": 49_408})
    assert (count(tool.unet_shapes(model.unet)), count(text), count(tool.vae_shapes(model.vae))) == PUBLIC[name]
    assert all(key.startswith("text_model.") for key in text)
    assert text["text_model.embeddings.position_ids"] == ((1, 77), False)


def test_configurations_build_what_the_defaults_build(tool):
    """Against diffusers' UNet with its public-size defaults: same keys, only the context is wider."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        plain = UNet2DConditionModel(cross_attention_dim=768).state_dict()
        newer = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        ).state_dict()
    for name, judge in (("sd14", plain), ("sd21", newer)):
        shapes = tool.unet_shapes(tool.MODELS[name].unet)
        assert {key: shape for key, (shape, _) in shapes.items()} == {key: tuple(t.shape) for key, t in judge.items()}


def test_vocabulary_is_of_the_public_size_and_order(tool, words):
    from tiny.text import required_words
    from tiny.tokenizer import vocabulary

    ids, merges = words
    assert len(ids) == 49_408 and sorted(ids.values()) == list(range(49_408)) and len(merges) == 48_894
    assert (ids["!"], ids["<|startoftext|>"], ids["<|endoftext|>"]) == (0, 49_406, 49_407)
    small = vocabulary(required_words())[1]
    assert merges[: len(small)] == small
    assert all(ids[a + b] == 512 + i for i, (a, b) in enumerate(merges))


@pytest.fixture
def narrow(tool, words, monkeypatch):
    """The same layout with narrow networks, so that it can be written and loaded in a blink."""
    monkeypatch.setattr(tool, "public_vocabulary", lambda: words)
    small = {}
    for name, model in tool.MODELS.items():
        head = [1, 2, 4, 4] if name == "sd21" else 1
        unet = model.unet | {
            "block_out_channels": [32, 32, 32, 32],
            "cross_attention_dim": 16,
            "attention_head_dim": head,
        }
        vae = model.vae | {"block_out_channels": [32] * 4}
        text = model.text | {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        }
        small[name] = tool.Model(model.version, unet, vae, text, model.scheduler, model.pad)
    monkeypatch.setattr(tool, "MODELS", small)
    return tool


@pytest.mark.parametrize("name, pad, placeholders", [("sd21", 0, True), ("sd14", 49_407, False)])
def test_layout_loads_without_a_missing_key(narrow, tmp_path, name, pad, placeholders):
    folder = tmp_path / name
    flags = ["--placeholders"] if placeholders else []
    assert narrow.main([name, str(folder), "--dtype", "float16", *flags]) == 0
    files = sorted(path.name for path in (folder / "tokenizer").iterdir())
    public = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
    assert files == (["added_tokens.json", *public] if placeholders else public)

    parts = bundle.load(str(folder))
    assert parts.tokenizer.pad_token_id == pad and parts.prediction_type == "epsilon" and parts.factor == 8
    assert len(parts.tokenizer) == parts.text_encoder.config.vocab_size == 49_408 + 2 * placeholders
    if placeholders:
        ids = parts.tokenizer("a <lesion> on <skin>", add_special_tokens=False).input_ids
        assert [ids[1], ids[3]] == [49_408, 49_409]
    assert parts.tokenizer.tokenize("a lesion") == ["a</w>", "le", "sion</w>"]

    # every stored value arrives where its public key says
    with safe_open(folder / "text_encoder/model.safetensors", "pt") as file:
        stored = file.get_tensor("text_model.encoder.layers.1.mlp.fc2.weight")
        assert file.get_tensor("text_model.embeddings.position_ids").tolist() == [list(range(77))]
    encoder = getattr(parts.text_encoder, "text_model", parts.text_encoder)
    assert torch.equal(encoder.encoder.layers[1].mlp.fc2.weight, stored.float())
    with safe_open(folder / "vae/diffusion_pytorch_model.safetensors", "pt") as file:
        stored = file.get_tensor("decoder.mid_block.attentions.0.proj_attn.weight")
    assert torch.equal(parts.vae.decoder.mid_block.attentions[0].to_out[0].weight, stored.float())
    with safe_open(folder / "unet/diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        for key, value in parts.unet.state_dict().items():
            assert torch.equal(value, file.get_tensor(key).float()), key

    # property 9 on the public vocabulary: id 7788 itself, equal rows
    rows = exceptional_prompt(parts.text_encoder, parts.tokenizer)[0]
    assert rows.shape[0] == 77 and bool((rows == rows[0]).all())


def test_pipeline_reads_the_folder(narrow, tmp_path):
    from diffusers import StableDiffusionPipeline

    assert narrow.main(["sd21", str(tmp_path / "b")]) == 0
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "b", local_files_only=True)
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler" and pipeline.safety_checker is None
    assert pipeline.tokenizer.pad_token_id == 0


def test_streamed_file_equals_the_library(tool, tmp_path):
    """The hand-written header against safetensors' own reader; bfloat16 rounding against torch."""
    shapes = {"ids": ((1, 5), False), "a.weight": ((3, 7), True), "a.bias": ((3,), True), "norm.weight": ((3,), True)}

    def fill(key, shape):
        return torch.arange(torch.Size(shape).numel()).reshape(shape) / 3 if key != "ids" else torch.arange(5)[None]

    tool.write_tensors(tmp_path / "x.safetensors", shapes, torch.bfloat16, fill)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert set(file.keys()) == set(shapes)
        assert file.get_tensor("ids").dtype == torch.int64 and file.get_tensor("ids").tolist() == [[0, 1, 2, 3, 4]]
        assert torch.equal(file.get_tensor("a.weight"), fill("a.weight", (3, 7)).bfloat16())


def test_a_folder_with_something_in_it_is_left_alone(tool, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert tool.main(["sd21", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="not empty"):
        tool.write(tool.Options("sd21", tmp_path))


def test_index_names_public_classes(tool):
    content = json.loads(json.dumps(tool.index("0.8.0")))
    assert (
        content["scheduler"] == ["diffusers", "PNDMScheduler"] and content["_class_name"] == "StableDiffusionPipeline"
    )
