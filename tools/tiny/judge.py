"""Train and grade the judges: the world classifier and the image-text pair."""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft_common import phantoms
from graft_common.metrics.judges import ImageText, WorldClassifier
from graft_common.training import fit
from tiny.data import Drawn
from tiny.vae import to_model


def head_names() -> dict[str, list[str]]:
    """ "world" and "<world>.<attribute>" -> class names."""
    heads = {"world": list(phantoms.WORLDS)}
    for world in phantoms.WORLDS:
        for name, values in phantoms.world(world).ATTRIBUTES.items():
            heads[f"{world}.{name}"] = list(values)
    return heads


def labels(rows: list[dict], heads: dict[str, list[str]]) -> dict[str, Tensor]:
    """Head -> class index per row, -100 where the row is of another world."""
    out = {"world": torch.tensor([heads["world"].index(r["world"]) for r in rows])}
    for head, values in heads.items():
        if head != "world":
            world, name = head.split(".")
            out[head] = torch.tensor(
                [values.index(r["attributes"][name]) if r["world"] == world else -100 for r in rows]
            )
    return out


def captions() -> list[tuple[str, str]]:
    """Every (world, caption) that the grammars can say."""
    out = []
    for world in phantoms.WORLDS:
        module = phantoms.world(world)
        for values in product(*module.ATTRIBUTES.values()):
            out += [(world, text) for text in module.describe(dict(zip(module.ATTRIBUTES, values, strict=True)))]
    return list(dict.fromkeys(out))


def shift(x: Tensor, gen: torch.Generator) -> Tensor:
    """Small random shifts and brightness: what the judges must not mind. No mirror, since sides are named."""
    dy, dx = (int(torch.randint(-3, 4, (), generator=gen)) for _ in range(2))
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[..., 3 + dy : 67 + dy, 3 + dx : 67 + dx]
    gain = 1 + 0.1 * torch.randn((len(x), 1, 1, 1), generator=gen)
    noise = 0.05 * torch.rand((len(x), 1, 1, 1), generator=gen) * torch.randn(x.shape, generator=gen)
    return (x * gain + 0.05 * torch.randn((len(x), 1, 1, 1), generator=gen) + noise).clamp(-1, 1)


def train_classifier(drawn: Drawn, folder, config, batch: int = 64, **options):
    """Returns (WorldClassifier with averaged weights, `Fitted`)."""
    torch.manual_seed(config.seed)
    heads = head_names()
    truth = labels(drawn.rows, heads)
    model = WorldClassifier(heads)

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        pick = torch.randint(len(drawn.rows), (batch,), generator=gen).sort().values
        x = shift(to_model(drawn.images[pick.numpy()]), gen).to(next(module.parameters()).device)
        out = module(x.contiguous())
        total = torch.zeros((), device=x.device)
        for head, logits in out.items():
            wanted = truth[head][pick].to(x.device)
            if (wanted >= 0).any():
                total = total + F.cross_entropy(logits, wanted, ignore_index=-100) * (wanted >= 0).float().mean().sqrt()
        return total

    fitted = fit(model, loss, config, folder, **options)
    model.load_state_dict({**model.state_dict(), **fitted.average})
    return model.eval().requires_grad_(False), fitted


def train_pair(drawn: Drawn, tokenizer, folder, config, batch: int = 96, **options):
    """Returns (ImageText with averaged weights, `Fitted`)."""
    torch.manual_seed(config.seed)
    model = ImageText(len(tokenizer))
    ids = tokenizer(
        [r["caption"] for r in drawn.rows], padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    keys = [json_key(r) for r in drawn.rows]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    same = torch.tensor([number[k] for k in keys])

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        pick = torch.randint(len(drawn.rows), (batch,), generator=gen).sort().values
        device = next(module.parameters()).device
        x = shift(to_model(drawn.images[pick.numpy()]), gen).to(device)
        net = getattr(module, "module", module)
        image = net.embed_image(x.contiguous())
        text = net.embed_text(ids[pick].to(device), tokenizer.eos_token_id)
        logits = net.log_scale.exp().clamp(max=100) * image @ text.T
        equal = (same[pick][:, None] == same[pick][None]).float().to(device)  # equal captions are not negatives
        target = equal / equal.sum(dim=1, keepdim=True)
        return -(target * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2

    fitted = fit(model, loss, config, folder, **options)
    model.load_state_dict({**model.state_dict(), **fitted.average})
    return model.eval().requires_grad_(False), fitted


def json_key(row: dict) -> tuple:
    """What two captions must share to mean the same: world and attributes."""
    return (row["world"], *sorted(row["attributes"].items()))


@torch.no_grad()
def predict(model: WorldClassifier, images: np.ndarray, batch: int = 128) -> dict[str, Tensor]:
    """Class index by head, for uint8 pictures (n, 64, 64, 3)."""
    parts = [model(to_model(images[i : i + batch]).contiguous()) for i in range(0, len(images), batch)]
    return {head: torch.cat([p[head] for p in parts]).argmax(1) for head in parts[0]}


def accuracy(model: WorldClassifier, images: np.ndarray, rows: list[dict]) -> dict[str, float]:
    """Share of right answers by head."""
    truth, said = labels(rows, model.heads), predict(model, images)
    return {h: float((said[h] == truth[h])[truth[h] >= 0].float().mean()) for h in model.heads if (truth[h] >= 0).any()}
