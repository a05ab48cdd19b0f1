"""Details of the public folder layout that the libraries' own savers leave out."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from graft_common.files import atomic_path


def plain_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Replace tokenizer.json by the public checkpoint's vocab.json, merges.txt and special_tokens_map.json.

    Tokens that were added to the vocabulary stand in added_tokens.json, as transformers has always read them.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    vocabulary = dict(sorted(content["model"]["vocab"].items(), key=lambda item: item[1]))
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
    added = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= len(vocabulary)}
    if added:
        texts["added_tokens.json"] = json.dumps(added, indent=2) + "\n"
    for name, text in texts.items():
        with atomic_path(folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").unlink(missing_ok=True)


def store_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Rewrite every safetensors file below `folder` with its floating tensors in `dtype`."""
    for path in sorted(folder.glob("*/*.safetensors")):
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(path).items()}
        with atomic_path(path) as beside:
            save_file(tensors, beside, metadata={"format": "pt"})
