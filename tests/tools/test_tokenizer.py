"""tiny-sd's tokenizer: one token a word, `lesion` in two, any text there and back, nothing that depends on an id.

Judges: a byte-pair learner that counts everything anew at each merge (Sennrich et al. 2016 as written down), and the
public class loading the public files.
"""

import ast
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from graft_common import phantoms  # noqa: E402
from graft_common.bundle import shipped  # noqa: E402
from graft_common.bundle_layout import plain_tokenizer  # noqa: E402
from graft_common.inversion import exceptional_id  # noqa: E402
from tiny.text import required_words  # noqa: E402
from tiny.tokenizer import END, LESION_MERGES, START, build, byte_alphabet, learn_merges  # noqa: E402

PROMPTS = (
    "An MRI scan of a cancerous brain",
    "An ultrasound image of a cancerous breast",
    "An image of lesion on skin",
)


@pytest.fixture(scope="module")
def required():
    return required_words()


@pytest.fixture(scope="module")
def tokenizer(required):
    return build(required)


def test_every_word_is_one_token(tokenizer, required):
    drawn = [phantoms.draw(world, 32, seed).caption for world in phantoms.WORLDS for seed in (3, 4)]
    words = sorted(
        {w for text in (*required, *PROMPTS, *drawn) for w in re.findall("[a-z]+", text.lower())} - {"lesion"}
    )
    assert len(words) > 120
    split = [w for w in words if len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    assert split == []
    assert len(tokenizer) >= 2000


def test_lesion_is_two_tokens_as_in_the_public_vocabulary(tokenizer):
    assert tokenizer.tokenize("lesion") == ["le", "sion</w>"]
    assert tokenizer.tokenize("a lesion on skin") == ["a</w>", "le", "sion</w>", "on</w>", "skin</w>"]


@pytest.mark.parametrize(
    "text", ["naïve Ωmega — 脑 MRI", "x-ray #3: 50% (T2/FLAIR)?!", "zzgrxq qwrtp", "🧠 tumour\t2 \n 3"]
)
def test_any_text_encodes_and_decodes(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids[1:-1]
    squeeze = re.compile(r"\s+")
    back = tokenizer.decode(ids, skip_special_tokens=True)
    assert squeeze.sub("", back) == squeeze.sub("", text.lower())


def test_learner_equals_counting_everything_anew():
    counts = Counter({"lesion": 5, "lesions": 3, "session": 4, "banana": 6, "aaaa": 2, "baaaaa": 2, "x": 9, "nan": 7})

    def merged(parts, pair):
        text = " ".join(("", *parts, ""))
        left, right = map(re.escape, pair)
        joined = re.sub(rf"(?<= ){left} {right}(?= )", lambda _: pair[0] + pair[1], text)
        return tuple(joined.split())

    words = {w: (*w[:-1], w[-1] + "</w>") for w in counts}
    want = list(LESION_MERGES)
    for pair in want:
        words = {w: merged(parts, pair) for w, parts in words.items()}
    while True:
        pairs = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        want.append(max(pairs, key=lambda p: (pairs[p], p)))
        words = {w: merged(parts, want[-1]) for w, parts in words.items()}
    assert learn_merges(counts, 10**6, LESION_MERGES) == want
    assert learn_merges(counts, 9, LESION_MERGES) == want[:9]


def test_files_and_class_agree(tokenizer, tmp_path):
    """vocab.json, merges.txt and special_tokens_map.json are enough for the public class to be the same tokenizer."""
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    plain_tokenizer(tokenizer, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    again = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.pad_token_id, again.model_max_length) == (tokenizer.pad_token_id, 77)
    for text in (*PROMPTS, "naïve — 脑 lesion"):
        assert again(text).input_ids == tokenizer(text).input_ids


def test_order_is_the_public_one(tokenizer, tmp_path):
    """Bytes, bytes that end a word, merges, start, end: "!" is 0 and the two marks come last."""
    tokenizer.save_pretrained(tmp_path)
    plain_tokenizer(tokenizer, tmp_path)
    ids = tokenizer.get_vocab()
    merges = [tuple(line.split(" ")) for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]]
    letters = byte_alphabet()
    assert len(letters) == len(set(letters)) == 256 and ids["!"] == 0
    assert [ids[c] for c in letters] == list(range(256)) and ids[letters[0] + "</w>"] == 256
    assert (ids[START], ids[END]) == (len(ids) - 2, len(ids) - 1)
    assert merges[:4] == LESION_MERGES and sorted(ids.values()) == list(range(len(ids)))


def test_placeholders_come_after_the_last_id(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    own = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    before = len(own)
    assert own.add_tokens(["<v1>", "<v2>"]) == 2
    assert own.convert_tokens_to_ids(["<v1>", "<v2>"]) == [before, before + 1]
    ids = own("a photo of <v1> and <v2>").input_ids
    assert [ids.index(before), ids.index(before + 1)] == [4, 6]


def test_exceptional_id_is_the_public_one_modulo_the_ordinary_entries(tokenizer):
    special = tokenizer.all_special_ids
    ordinary = [i for i in range(len(tokenizer)) if i not in special]
    assert exceptional_id(len(tokenizer), special) == ordinary[7788 % len(ordinary)]
    assert exceptional_id(49408, [49406, 49407]) == 7788


def test_no_id_is_a_literal():
    """No number at or above 256 that could be an id stands where tokens are handled (SOT, EOT, pad, 7788 elsewhere)."""
    public = {49406, 49407, 2302, 2303, 27468}
    for path in [*ROOT.glob("common/src/**/*.py"), *ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("tools/tiny/*.py")]:
        numbers = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        ids = {n for n in numbers if type(n) is int} & public
        assert not ids, f"{path}: {ids}"


@pytest.mark.skipif("tiny-sd" not in shipped(), reason="tiny-sd is not built yet")
def test_shipped_tokenizer_is_this_one(tokenizer):
    from transformers import CLIPTokenizer

    own = CLIPTokenizer.from_pretrained(shipped()["tiny-sd"] / "tokenizer", local_files_only=True)
    assert own.get_vocab() == tokenizer.get_vocab()
