"""A small CLIP tokenizer: the public class, byte-level BPE with `</w>`, our own merges.

Every word in `required` becomes one token; `lesion` stays `le` + `sion`, as in the public vocabulary, so that code which
assumes one token per class word fails here as it would there.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LESION_MERGES = [("l", "e"), ("s", "i"), ("si", "o"), ("sio", "n</w>")]
WORDS = Path(__file__).parent / "words.txt"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in the public vocabulary's order (printable bytes first)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [256 + i for i in range(256 - len(printable))]
    return [chr(c) for c in printable + moved]


def read_words() -> Counter[str]:
    """Word frequencies of the English that the method specifications use (`words.txt`: one `word count` a line)."""
    rows = (line.split() for line in WORDS.read_text(encoding="utf-8").splitlines())
    return Counter({word: int(count) for word, count in rows})


def learn_merges(counts: Counter[str], size: int, first: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Byte-pair merges of `counts` (Sennrich et al. 2016), `first` given, until `size` merges or nothing repeats."""
    words = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    for pair in first:
        words = {word: _merge(parts, pair) for word, parts in words.items()}
    pairs: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}

    def count(word: str, sign: int) -> None:
        for pair in zip(words[word], words[word][1:], strict=False):
            pairs[pair] += sign * counts[word]
            holders.setdefault(pair, set()).add(word)

    for word in words:
        count(word, 1)
    merges = list(first)
    while len(merges) < size:
        most = max(pairs.values(), default=0)
        if most == 0:
            break
        best = max(pair for pair, n in pairs.items() if n == most)  # ties by spelling: same merges everywhere
        for word in holders.pop(best):  # only these words change, so only their pairs are counted anew
            count(word, -1)
            words[word] = _merge(words[word], best)
            count(word, 1)
        del pairs[best]
        merges.append(best)
    return merges


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return tuple(out)


def vocabulary(required: Iterable[str], size: int = 2304) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) with every word of `required` (lower case) as one token and at least `size` entries.

    Raises:
        RuntimeError: a required word did not become one token.
    """
    wanted = sorted({w for text in required for w in re.findall(r"[a-z]+", text.lower())} - {"lesion"})
    must = learn_merges(Counter(dict.fromkeys(wanted, 1)), 10**6, LESION_MERGES)
    further = read_words()
    del further["lesion"]
    letters = byte_alphabet()
    room = size - 2 * len(letters) - 2
    merges = must if len(must) >= room else learn_merges(further, room, must)
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges), START, END]
    ids = {token: i for i, token in enumerate(tokens)}
    lost = [w for w in wanted if w + "</w>" not in ids]
    if lost:
        raise RuntimeError(f"not one token: {lost}")
    return ids, merges


def build(required: Iterable[str], size: int = 2304) -> CLIPTokenizer:
    """The tokenizer of tiny-sd: 77 positions, padded with the end token as Stable Diffusion 1.x."""
    ids, merges = vocabulary(required, size)
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77)
