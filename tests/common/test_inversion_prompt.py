"""The exceptional prompt on tiny random CLIP text models and a tiny random U-Net (tficomp spec, checks 9 and 10)."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from graft_common.inversion import exceptional_id, exceptional_prompt

VOCABULARY = 100


class Tokenizer(SimpleNamespace):
    """What the function reads of a CLIP tokenizer: begin 98, end = padding 99, 77 places."""

    model_max_length = 77
    all_special_ids = (98, 99)

    def __len__(self):
        return VOCABULARY

    def __call__(self, words):
        ids = [98, *words, 99]
        return torch.tensor([ids + [99] * (77 - len(ids))])


def text_model(kind=CLIPTextModel, **config):
    torch.manual_seed(0)
    return kind(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=32,
            **({"bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99, "initializer_factor": 10.0} | config),
        )
    ).eval()


MODELS = [
    (CLIPTextModel, {}),
    (CLIPTextModel, {"hidden_act": "gelu"}),  # as OpenCLIP's towers
    (
        CLIPTextModel,
        {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
    ),  # the wrong ids of old published configs
    (CLIPTextModelWithProjection, {}),
]


@torch.no_grad()
def whole_run(model, token, positions):
    """The definition itself: 77 equal ids through the encoder, positions kept or set to zero."""
    inner = getattr(model, "text_model", model)
    table = inner.embeddings.position_embedding.weight
    kept = table.clone()
    if not positions:
        table.zero_()
    out = inner(torch.full((1, 77), token)).last_hidden_state
    table.copy_(kept)
    return out


@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_rows_are_equal_and_are_the_definition(kind, config):
    model, tokenizer = text_model(kind, **config), Tokenizer()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    got = exceptional_prompt(model, tokenizer)
    assert got.shape == (1, 77, 32) and not got.requires_grad
    assert torch.equal(got, got[:, :1].expand(-1, 77, -1))
    token = exceptional_id(VOCABULARY, tokenizer.all_special_ids)
    assert (got - whole_run(model, token, positions=False)).abs().max() < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with_positions = whole_run(model, token, positions=True)
    assert (with_positions - with_positions[:, :1]).abs().max() > 1e-2
    null = getattr(model, "text_model", model)(tokenizer([])).last_hidden_state
    assert (got - null).abs().max() > 1e-2


def test_it_depends_on_nothing_but_the_token():
    model, tokenizer = text_model(), Tokenizer()
    assert torch.equal(exceptional_prompt(model, tokenizer), exceptional_prompt(model, tokenizer))
    assert (exceptional_prompt(model, tokenizer, 5) - exceptional_prompt(model, tokenizer, 6)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rows_are_equal_in_every_precision(dtype):
    got = exceptional_prompt(text_model().to(dtype), Tokenizer())
    assert got.dtype == dtype and torch.equal(got, got[:, :1].expand(-1, 77, -1))


def test_length_is_the_shorter_of_tokenizer_and_positions():
    assert exceptional_prompt(text_model(), Tokenizer(model_max_length=int(1e30))).shape[1] == 77
    assert exceptional_prompt(text_model(), Tokenizer(model_max_length=16)).shape[1] == 16


@pytest.mark.parametrize(
    ("vocabulary", "special", "want"),
    [
        (49408, [49406, 49407], 7788),  # OpenAI's CLIP tokenizer
        (49408, [0, 49406, 49407], 7788),  # OpenCLIP's, which pads with "!"
        (100, [98, 99], 7788 % 98),
        (100, [0, 1], 2 + 7788 % 98),
        (7800, [7788], 7789),
        (1, [], 0),
    ],
)
def test_the_id_is_ordinary(vocabulary, special, want):
    assert exceptional_id(vocabulary, special) == want
    assert all(exceptional_id(vocabulary, special, t) not in special for t in (0, 1, 98, 99, 49406, 49407, 10**6))


def test_a_vocabulary_without_words_is_refused():
    with pytest.raises(ValueError, match="0 ordinary"):
        exceptional_id(2, [0, 1])
    with pytest.raises(ValueError, match="token=-1"):
        exceptional_id(9, [0], -1)


def test_one_row_is_the_same_condition_for_a_denoiser():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    model, tokenizer = text_model(), Tokenizer()
    context, x = exceptional_prompt(model, tokenizer), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        whole, one = (unet(x, 299.7, c).sample for c in (context, context[:, :1]))
        words = unet(x, 299.7, model(tokenizer([3, 14, 15])).last_hidden_state).sample
    assert (whole - one).abs().max() < 1e-4
    assert (whole - words).abs().max() > 1e-3  # so the condition does reach the output
