"""A model as captioner: what its replies may be, and one real (tiny, untrained) model through transformers."""

import dataclasses
import json

import numpy as np
import pytest

from didgen.attributes import DermAttributes, to_json
from didgen.vlm import ASKED, describe, first_object, load_generate, question
from graft_common.errors import InputError

MEASURED = DermAttributes(
    shape="oval", colors=("dark-brown",), size="medium", position="center", skin="tan", hair="none", border="sharp", diagnosis="NV"
)
SAID = DermAttributes(
    shape="round", colors=("black", "red"), size="small", position="top-left", skin="dark", hair="sparse", markers=("ink",),
    border=None, asymmetry="high",
)  # fmt: skip
GOOD = {k: v for k, v in to_json(SAID).items() if k != "diagnosis"}
IMAGE = np.zeros((8, 8, 3), np.uint8)


def replies(*texts):
    """A model that gives these replies in turn, and the requests it got."""
    asked = []

    def generate(image, text):
        asked.append(text)
        return texts[len(asked) - 1]

    return generate, asked


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        "Sure! Here it is:\n```json\n" + json.dumps(GOOD, indent=2) + "\n```\nHope it helps {smile}",
        "{not json} " + json.dumps(GOOD | {"mood": "calm", "diagnosis": "MEL"}),  # a class is never taken from a caption
    ],
)
def test_a_valid_reply_is_taken_whole(text):
    generate, asked = replies(text)
    found = describe(IMAGE, MEASURED, generate)
    assert found.attributes == dataclasses.replace(SAID, diagnosis="NV")
    assert set(found.sources) == set(ASKED) and set(found.sources.values()) == {"model"}
    assert found.replies == 1 and asked == [question({})]


def test_a_wrong_field_is_asked_again_and_right_ones_stay():
    generate, asked = replies(json.dumps(GOOD | {"shape": "square"}), json.dumps(GOOD | {"size": "huge"}))
    found = describe(IMAGE, MEASURED, generate)
    assert found.replies == 2 and found.attributes.shape == "round" and found.attributes.size == "small"
    assert "shape is 'square'; choose from round" in asked[1] and "size" not in asked[1].split("Your last reply")[1]


def test_after_two_retries_each_field_falls_back_alone():
    bad = GOOD | {"colors": "black", "markers": ["pen"], "hair": None}
    generate, asked = replies(json.dumps(bad), "no idea", json.dumps(bad))
    found = describe(IMAGE, MEASURED, generate)
    assert found.replies == len(asked) == 3
    fallen = {name for name, who in found.sources.items() if who == "measured"}
    assert fallen == {"colors", "markers", "hair"}
    assert found.attributes == dataclasses.replace(SAID, colors=("dark-brown",), markers=(), hair="none", diagnosis="NV")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{" * 3000, '{"a":' * 2000, "null", "\x00{}", '{"shape": NaN}'])
def test_rubbish_is_the_measurement(text):
    generate, _ = replies(text, text, text)
    found = describe(IMAGE, MEASURED, generate)
    assert found.attributes == MEASURED and set(found.sources.values()) == {"measured"} and found.replies == 3


def test_first_object():
    assert first_object('x {"a": {"b": 1}} {"c": 2}') == {"a": {"b": 1}}
    assert first_object('{"a": 1') == {} == first_object("") == first_object("[]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LLaVA's classes with two tiny untrained networks and a tokenizer of single characters."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["<unk>", "</s>", "<image>", *(chr(c) for c in range(32, 127)), "\n"]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", eos_token="</s>", pad_token="</s>", additional_special_tokens=["<image>"]
    )
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=16, **sizes),
        text_config=LlamaConfig(vocab_size=len(words), max_position_embeddings=4096, **sizes),
        image_token_index=2,
    )
    path = tmp_path_factory.mktemp("vlm") / "tiny"
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 1
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_a_real_model_by_folder(folder, monkeypatch):
    monkeypatch.setattr("didgen.vlm.REPLY_TOKENS", 12)
    generate = load_generate(str(folder), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    reply = generate(image, question({}))
    assert isinstance(reply, str) and 0 < len(reply) < 40 and reply == generate(image, question({}))
    found = describe(image, MEASURED, generate)  # untrained: nothing it says is JSON
    assert found.attributes == MEASURED and found.replies == 3


def test_models_that_cannot_be_loaded(folder, tmp_path):
    empty = tmp_path / "empty folder"
    empty.mkdir()
    cases = {
        "llama": "is neither measure nor a folder",
        "./nowhere/model": "is neither measure nor a folder",
        str(empty): "cannot be loaded as image-text-to-text model",
        "nobody/no-such-model": "cannot be loaded as image-text-to-text model",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said) as why:
            load_generate(name, "cpu")
        assert str(why.value).startswith(f"--captioner {name}: ") and "\n" not in str(why.value)
    import shutil

    mute = tmp_path / "mute"
    shutil.copytree(folder, mute)
    for file in mute.glob("chat_template*"):
        file.unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load_generate(str(mute), "cpu")
