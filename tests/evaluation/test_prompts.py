"""Our own prompts: how many, how different, and that nothing we train on is made of them."""

import json
import re
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import combinations
from math import comb, factorial, gcd, lcm

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.prompts import CATEGORIES, Prompt, of_categories, own_prompts, read_prompts
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.records import Candidate

OWN = own_prompts()

# Words; of Chinese and Japanese, characters.
TOKEN = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+")

# Two prompts share no run of this many words, and so little that they could not be one in other
# words. A prompt shares no run of DECONTAMINATION words with what the generators say.
COMMON_RUN = 8
MOST_ALIKE = 0.2
DECONTAMINATION = 13

CANDIDATES = {name: 200 for name in KINDS} | {"code": 40}
"""Records of each kind of generated data; those of code are run while they are made."""

ARITHMETIC = {
    "math-001": Fraction(18 * 250, 100),
    "math-005": Fraction(450 * 10, 6),
    "math-006": Fraction(84, 126),
    "math-009": -(-(780 - 255) // 35),
    "math-012": Fraction(comb(3, 2) + comb(5, 2) + comb(4, 2), comb(12, 2)),
    "math-015": 14 * 8 - 37 * 3,
    "math-017": sum(range(251)),
    "math-021": factorial(5) // (2 * 2),
    "math-029": gcd(252, 198),
    "math-031": 5 * 18 - 12 - 21 - 17 - 25,
    "math-032": int("1001101", 2),
    "math-035": 7 * 24 * 3600,
    "math-036": Fraction(100 * (184 - 160), 160),
    "math-037": Fraction(22 * (5 * 15 + 3 * 20), 10),
    "math-039": 18 + 20 - (30 - 5),
    "math-042": Fraction(sum(a + b >= 10 for a in range(1, 7) for b in range(1, 7)), 36),
    "math-050": factorial(15) // factorial(13),
    "math-058": sum(360 % number == 0 for number in range(1, 361)),
    "math-060": Fraction(3**3, 3),
    "math-067": comb(8, 2),
    "math-069": 7**100 % 5,
    "math-078": Fraction(1_500 * 104 * 96, 10_000),
    "math-079": Fraction(2, 3) * Fraction(3, 4) * 60,
    "math-090": Fraction(comb(4, 3), comb(6, 3)),
    "math-094": 999 * 47,
    "math-097": Fraction(27, 99),
    "math-102": Fraction(comb(5, 3), 2**5),
    "math-103": 1 / (Fraction(1, 3) + Fraction(1, 6)),
    "math-109": 1 / (1 - Fraction(1, 3)),
    "math-110": 48 * 25 - 600 // 12,
    "math-111": 210 * 8 // 3,
    "math-121": 28_000 * 20 // 100 + 12_000 * 35 // 100,
    "math-123": 26 * 25 * 10**3,
    "math-125": 360 // lcm(6, 8, 10),
    "math-126": Fraction(100 * (30 + 50), 500),
}
"""What the references of some prompts are, worked out here from the numbers that they give."""


def tokens(text):
    return TOKEN.findall(text.lower())


def runs(text, length):
    """The runs of `length` words in a text."""
    words = tokens(text)
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


WHOLE = {tuple(tokens(prompt.prompt)) for prompt in OWN}
LONG_RUNS = {run for prompt in OWN for run in runs(prompt.prompt, DECONTAMINATION)}


def write(path, *rows):
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def test_there_are_1393_in_11_categories_of_nearly_equal_size():
    counts = Counter(prompt.category for prompt in OWN)
    assert counts.total() == 1_393
    assert tuple(sorted(counts)) == CATEGORIES
    assert set(counts.values()) == {126, 127}


def test_ids_are_unique_and_name_the_category():
    assert len({prompt.id for prompt in OWN}) == len(OWN)
    for prompt in OWN:
        assert re.fullmatch(rf"{prompt.category}-\d{{3}}", prompt.id), prompt


def test_no_two_prompts_share_a_run_of_eight_words():
    holders = defaultdict(list)
    for prompt in OWN:
        for run in runs(prompt.prompt, COMMON_RUN):
            holders[run].append(prompt.id)
    shared = {" ".join(run): ids for run, ids in holders.items() if len(ids) > 1}
    assert not shared


def test_no_two_prompts_are_nearly_the_same():
    # Only prompts that share a run of three words can be alike at all.
    threes = {prompt.id: runs(prompt.prompt, 3) for prompt in OWN}
    holders = defaultdict(list)
    for name, found in threes.items():
        for run in found:
            holders[run].append(name)
    shared = Counter(pair for names in holders.values() for pair in combinations(names, 2))
    alike = {
        pair: count / len(threes[pair[0]] | threes[pair[1]])
        for pair, count in shared.items()
        if count > 1  # short questions may begin alike: "what is the"
    }
    assert max(alike.values()) < MOST_ALIKE


def test_short_prompts_that_begin_alike_ask_for_different_things():
    assert len(WHOLE) == len(OWN)
    starts = Counter(tuple(tokens(prompt.prompt)[:4]) for prompt in OWN)
    assert starts.most_common(1)[0][1] <= 5


def test_prompts_are_texts_of_many_lengths():
    words = sorted(len(tokens(prompt.prompt)) for prompt in OWN)
    assert words[0] >= 3
    assert words[len(words) // 10] < 15
    assert words[-len(words) // 10] > 80
    for prompt in OWN:
        assert prompt.prompt == prompt.prompt.strip()


def test_categories_that_are_about_a_text_bring_it_along():
    about_a_text = ("closed_qa", "extraction", "rewriting", "summarization")
    for category in about_a_text:
        words = sorted(len(tokens(p.prompt)) for p in OWN if p.category == category)
        assert words[len(words) // 2] >= 35, category


def test_questions_with_one_answer_have_a_reference():
    for category in ("math", "closed_qa", "classification", "extraction"):
        mine = [prompt for prompt in OWN if prompt.category == category]
        assert sum(bool(prompt.reference) for prompt in mine) > 0.9 * len(mine), category


@pytest.mark.parametrize(("name", "value"), ARITHMETIC.items(), ids=ARITHMETIC)
def test_reference_is_what_the_numbers_give(name, value):
    (prompt,) = (prompt for prompt in OWN if prompt.id == name)
    plain = re.sub(r"(?<=\d)[,.](?=\d{3}\b)", "", prompt.reference)  # 31,375 and 1.497,60
    said = re.findall(r"\d+/\d+|\d+(?:[.,]\d+)?", plain)
    assert value in [Fraction(number.replace(",", ".")) for number in said], prompt


@pytest.mark.parametrize("name", KINDS)
def test_generated_training_data_holds_no_prompt_of_ours(name, prose):
    section, maker = KINDS[name]
    from_texts = {"documents": str(prose)} if "documents" in section.model_fields else {}
    kind = maker(section(**from_texts))
    made = 0
    for number in range(CANDIDATES[name]):
        draw = Draw(name, 1, number)
        candidate = kind.make(draw, draw.pick(kind.families), kind.families)
        if isinstance(candidate, Candidate):
            made += 1
            assert not runs(candidate.text(), DECONTAMINATION) & LONG_RUNS
            for message in candidate.prompt:
                assert tuple(tokens(str(message["content"]))) not in WHOLE
    assert made > CANDIDATES[name] // 2


def test_only_categories_that_are_there_can_be_taken():
    found = of_categories(OWN, ["writing", "summarization"])
    assert Counter(prompt.category for prompt in found).keys() == {"writing", "summarization"}
    assert found == [prompt for prompt in OWN if prompt in found]
    with pytest.raises(DataError, match="no prompt is of category 'maths'") as caught:
        of_categories(OWN, ["writing", "maths"])
    assert caught.value.hint == "did you mean 'math'?"


def test_a_users_own_file_is_read_in_order(tmp_path):
    path = write(
        tmp_path / "mine.jsonl",
        {
            "id": "b",
            "category": "recipes",
            "prompt": "What can I cook with leeks?",
            "reference": None,
        },
        "\n",
        {"id": "a", "category": "math", "prompt": "2 + 2?", "reference": "4"},
    )
    assert read_prompts(path) == (
        Prompt("b", "recipes", "What can I cook with leeks?"),
        Prompt("a", "math", "2 + 2?", "4"),
    )


GOOD = {"id": "a", "category": "math", "prompt": "2 + 2?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{\n", "mine.jsonl, line 2: not JSON"),
        ("[]\n", "mine.jsonl, line 2: not a prompt"),
        ({"id": "b", "category": "math"}, "mine.jsonl, line 2: no 'prompt'"),
        ({"id": "b", "prompt": "2 + 3?"}, "mine.jsonl, line 2: no 'category'"),
        (
            {**GOOD, "id": "b", "prompt": " "},
            "mine.jsonl, line 2: 'prompt' is not a text, or empty",
        ),
        ({**GOOD, "id": 7}, "mine.jsonl, line 2: 'id' is not a text, or empty"),
        ({**GOOD, "refrence": "4"}, "mine.jsonl, line 2: unknown field 'refrence', fields are "),
        (GOOD, "mine.jsonl, line 2: id 'a' is on line 1 already"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path, row, message):
    path = write(tmp_path / "mine.jsonl", GOOD, row)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_prompts(path)
    assert caught.value.hint.startswith('a line is {"id": ...')


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl, line 1: not UTF-8 text"):
        read_prompts(path)


def test_a_file_without_prompts_is_an_error(tmp_path):
    with pytest.raises(DataError, match="has no prompt"):
        read_prompts(write(tmp_path / "mine.jsonl", "\n"))
    with pytest.raises(DataError, match="is a folder"):
        read_prompts(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*: no such file"):
        read_prompts(tmp_path / "none.jsonl")
