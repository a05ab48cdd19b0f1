"""A vision-language model as captioner: any image-text-to-text model of transformers, held to the schema."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from didgen.attributes import CHOICES, OPTIONAL, SEVERAL, DermAttributes, fault
from graft_common.errors import InputError

Generate = Callable[[UInt8[np.ndarray, "H W 3"], str], str]
ASKED = tuple(name for name in CHOICES if name != "diagnosis")  # a class comes from a label, never from a caption
RETRIES = 2
REPLY_TOKENS = 256


@dataclass(frozen=True)
class Described:
    """What a model said of one picture.

    Attributes:
        attributes: valid in any case.
        sources: field -> "model", or "measured" where no reply had a valid value; diagnosis is left out.
        replies: how often the model was asked.
    """

    attributes: DermAttributes
    sources: dict[str, Literal["model", "measured"]]
    replies: int


def describe(image: UInt8[np.ndarray, "H W 3"], measured: DermAttributes, generate: Generate) -> Described:
    """Ask for every field; what is missing or not in the schema is asked again twice, then taken from the measurement."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    replies = 0
    while replies == 0 or (faults and replies <= RETRIES):
        said = first_object(generate(image, question(faults)))
        replies, faults = replies + 1, {}
        for name in (n for n in ASKED if n not in values):
            why = f"{name} is missing" if name not in said else fault(name, said[name])
            if why:
                faults[name] = why
            else:
                values[name] = tuple(said[name]) if isinstance(said[name], list) else said[name]
    sources: dict[str, Literal["model", "measured"]] = {n: "model" if n in values else "measured" for n in ASKED}
    return Described(replace(measured, **values), sources, replies)


def question(faults: dict[str, str]) -> str:
    """The request; `faults` tells the model what was wrong with its last reply."""
    lines = ["Describe this dermoscopic image of a skin lesion. Reply with one JSON object and nothing else. Its fields:"]
    for name in ASKED:
        form = "one of"
        if name in SEVERAL:
            least, most = SEVERAL[name]
            form = f"a list of {least} to {most} of"
        values = ", ".join(f'"{value}"' for value in CHOICES[name])
        lines.append(f'"{name}": {form} {values}{" or null" if name in OPTIONAL else ""}')
    lines += [f"Your last reply was wrong: {why}." for why in faults.values()]
    return "\n".join(lines)


def first_object(reply: str) -> dict[str, Any]:
    """The first JSON object in a reply, whatever stands around it; empty where there is none."""
    decoder, start = json.JSONDecoder(), reply.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(reply, start)
        except (ValueError, RecursionError):
            start = reply.find("{", start + 1)
            continue
        return dict(found)
    return {}


def load_generate(name: str, device: Literal["auto", "cpu", "cuda"] = "auto") -> Generate:
    """A model by folder or hub id as a function from picture and request to reply (greedy, so it repeats).

    Raises:
        InputError: neither a folder nor a hub id, it cannot be fetched or loaded, or it has no chat template.
    """
    import torch

    from graft_common.device import pick_device, pick_dtype

    place = pick_device(device)
    local = Path(name).is_dir()
    if not local and ("/" not in name or name.startswith((".", "/", "~"))):
        raise InputError(f"--captioner {name}: is neither measure nor a folder; give one, or a hub id with a '/'")
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        processor: Any = AutoProcessor.from_pretrained(name, local_files_only=local)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name, local_files_only=local, dtype=pick_dtype("auto", place)
        )
    except Exception as why:  # transformers and the hub client raise many kinds: offline, gated, damaged, another task
        reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
        raise InputError(
            f"--captioner {name}: cannot be loaded as image-text-to-text model ({reason}); check the folder or the id"
        ) from why
    if not getattr(processor, "chat_template", None):
        raise InputError(f"--captioner {name}: its processor has no chat template; choose a model tuned for instructions")
    model.to(place).eval()

    @torch.no_grad()
    def generate(image: UInt8[np.ndarray, "H W 3"], text: str) -> str:
        from PIL import Image

        content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, model.dtype)
        made = model.generate(**inputs, max_new_tokens=REPLY_TOKENS, do_sample=False)
        return str(processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return generate
