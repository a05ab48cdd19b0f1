"""The text encoder of tiny-sd: CLIPTextModel, taught to name what a caption states, then frozen.

An encoder that already separates the attributes binds them sooner than one trained through the UNet alone, and frozen
states are computed once per caption.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from graft_common import phantoms
from graft_common.training import fit
from tiny.judge import captions, head_names

DROPPED = {"a", "an", "the", "of", "with", "on", "in", "and", "showing"}


def make(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Width 128, 3 layers; the end id is the tokenizer's own, so that pooling finds the end token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length, projection_dim=128,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def ids_of(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(n, 77) token ids, padded as the pipeline pads them."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


class Namer(nn.Module):
    """The encoder with one linear head per attribute on the mean over the caption's tokens."""

    def __init__(self, encoder: CLIPTextModel, heads: dict[str, list[str]], end: int) -> None:
        super().__init__()
        self.encoder, self.end = encoder, end
        self.out = nn.ModuleDict({k.replace(".", "__"): nn.Linear(128, len(v)) for k, v in heads.items()})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """(B, 77) -> logits by head, from the mean over all tokens up to the end, and again from the end token."""
        states = self.encoder(ids).last_hidden_state
        kept = ((ids == self.end).cumsum(1) <= 1).unsqueeze(-1).float()
        mean = (states * kept).sum(1) / kept.sum(1)
        last = states[torch.arange(len(ids)), (ids == self.end).int().argmax(1)]
        return {k: self.out[k](mean) + self.out[k](last) for k in self.out}


def labels_of(rows: list[tuple[str, dict]], heads: dict[str, list[str]]) -> dict[str, Tensor]:
    """Head -> class of each (world, attributes), -100 where the head is of another world."""
    out = {"world": torch.tensor([heads["world"].index(w) for w, _ in rows])}
    for head, values in heads.items():
        if head != "world":
            world, name = head.split(".")
            out[head.replace(".", "__")] = torch.tensor(
                [values.index(a[name]) if w == world else -100 for w, a in rows]
            )
    return out


def train(tokenizer: CLIPTokenizer, rows: list[dict], folder, config, batch: int = 64, **options):
    """rows: training rows with caption, world, attributes. Returns (encoder with averaged weights, `Fitted`)."""
    torch.manual_seed(config.seed)
    heads = head_names()
    unique = {r["caption"]: (r["world"], r["attributes"]) for r in rows}
    texts, truth = list(unique), labels_of(list(unique.values()), heads)
    ids = ids_of(tokenizer, texts)
    model = Namer(make(tokenizer), heads, tokenizer.eos_token_id)
    stop_ids = torch.tensor(tokenizer.convert_tokens_to_ids([w + "</w>" for w in sorted(DROPPED)]))

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        pick = torch.randint(len(texts), (batch,), generator=gen)
        x = ids[pick]
        # Losing small words now and then keeps a free prompt near the grammar's states.
        lost = torch.isin(x, stop_ids) & (torch.rand(x.shape, generator=gen) < 0.15)
        order = torch.argsort(lost.int(), dim=1, stable=True)
        x = torch.where(lost, tokenizer.pad_token_id, x).gather(1, order)
        out = module(x)
        total = sum(
            F.cross_entropy(out[h], truth[h][pick], ignore_index=-100, label_smoothing=0.05)
            for h in out
            if (truth[h][pick] >= 0).any()
        )
        return total

    fitted = fit(model, loss, config, folder, **options)
    model.load_state_dict({**model.state_dict(), **fitted.average})
    model.eval().requires_grad_(False)
    with torch.no_grad():
        out = model(ids)
    right = {h: float((out[h].argmax(1) == truth[h])[truth[h] >= 0].float().mean()) for h in out}
    return model.encoder, fitted, right


@torch.no_grad()
def states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(n, 77, 128) last hidden states."""
    ids = ids_of(tokenizer, texts)
    return torch.cat([encoder(ids[i : i + 64]).last_hidden_state for i in range(0, len(ids), 64)])


def all_captions() -> list[str]:
    """Every caption of every world's grammar."""
    return [text for _, text in captions()]


def required_words() -> list[str]:
    """Texts whose every word must be one token: the grammars, the prompts of the method specifications, DermPrompt's schema."""
    prompts = [
        "An MRI scan of a cancerous brain", "An ultrasound image of a cancerous breast", "An image of lesion on skin",
        "a photo of a and b", "a photo of one and another", "far away", "zoomed in", "synthetic",
        "a chest x ray with no finding", "a dermoscopic image", "a mammogram", "a ct slice of lungs",
    ]  # fmt: skip
    schema = [
        "round oval elongated irregular white red light dark brown blue gray black small medium large sharp blurred low high",
        "very light intermediate tan brown dark none sparse dense ruler ink bubbles dark corners sticker hair skin lesion",
        "top middle bottom upper lower left center right shape color size position border asymmetry colors markers diagnosis",
        "melanoma nevus basal cell carcinoma actinic keratosis benign dermatofibroma vascular squamous",
    ]
    names = [name.replace("_", " ") for world in phantoms.WORLDS for name in phantoms.world(world).ATTRIBUTES]
    return [*prompts, *schema, *names, *all_captions()]
