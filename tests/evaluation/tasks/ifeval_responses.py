# ruff: noqa: RUF001  languages look alike
"""Responses that follow, break and just about follow each kind of IFEval's instructions.

They are the same each time, so that verdicts of the official code could be written down.
"""

from collections.abc import Mapping
from typing import Any

TEXT = """the river bends past old stones and quiet fields where two children play until the
evening comes and their father calls them home for bread and soup while a dog sleeps near the warm
fire"""
WORDS = TEXT.split()

TEXTS = {  # The first article of the declaration of human rights, or its beginning.
    "en": "All human beings are born free and equal in dignity and rights.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ. ಹಾಗೂ ಘನತೆ ಮತ್ತು ಹಕ್ಕುಗಳಲ್ಲಿ ಸಮಾನರಾಗಿದ್ದಾರೆ.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "mr": "सर्व मानवी व्यक्ती जन्मतः स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "sw": "Watu wote wamezaliwa huru na hadhi na haki zao ni sawa.",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
}

ODD = ("", "  \n\n ", "1234 5678", "!?.", "\U0001f600", "A", "a")
"""What models write, too. Not of a kind, so that their verdicts hang on it alone."""


def responses(kind: str, parameters: Mapping[str, Any]) -> list[str]:
    """Responses to an instruction: those made for its kind, then the first of them in frames."""
    special = [*SPECIAL[kind](**parameters), *ODD]
    return [*special, *framed(special[0])]


def framed(text: str) -> list[str]:
    """A response as models dress it up."""
    return [
        f"Sure, here it is:\n\n{text}",
        f"{text}\n\nI hope this helps!",
        f"Here it is:\n{text}\n*The end*",
        f"**{text}**",
        f'"{text}"',
        f"\n{text}\n\n",
        f"```\n{text}\n```",
        f"# Title\n\n* {text}",
        text.upper(),
        text.lower(),
        text.replace("\n", "\r\n").replace(" ", "\u00a0"),
        text[: len(text) // 2],
    ]


def words(count: int, gap: str = " ") -> str:
    return gap.join(WORDS[n % len(WORDS)] for n in range(max(count, 0)))


def around(bound: int) -> list[int]:
    """Counts just below a bound, at it and above it."""
    return [bound, max(bound - 1, 0), bound + 1]


def _sentences(relation: str, num_sentences: int) -> list[str]:
    n = num_sentences
    counts = around(n) if relation == "at least" else [max(n - 1, 0), n, n + 1]
    ends = [
        "This is one.",
        "Dr. Smith met Mr. J. R. Hill at 5 p.m. on Monday.",
        "Wow!!!",
        "Is it 3.14 or No. 5?",
        "He said \u201cGo.\u201d",
        "Wait...",
        "(Yes.)",
        "The U.S. team won.",
    ]
    return [
        *(" ".join(["Here is one."] * count) for count in counts),
        *(" ".join(ends[at % len(ends)] for at in range(count)) for count in counts),
        "\n".join(f"{at}. Here is a point" for at in range(1, n + 1)),
        " ".join(["Oh no"] * n) + "!!!",
        "\n\n".join(["Here is one"] * n),
        " ".join(["e.g. this one vs. that, i.e. both etc."] * n),
        "".join(["Here.Is.One!"] * n),
    ]


def _paragraphs(num_paragraphs: int) -> list[str]:
    parts = [[words(5)] * count for count in around(num_paragraphs)]
    right = parts[0]
    return [
        *("\n***\n".join(each) for each in parts),
        "***\n" + "\n***\n".join(right) + "\n***",
        "***".join(right),
        "\n****\n".join(right),
        "\n* * *\n".join(right),
        "\n***\n\n***\n".join(right),
        "\n\n".join(right),
        "\n***\n".join([*right, " "]),
    ]


def _number_words(relation: str, num_words: int) -> list[str]:
    n = num_words
    counts = around(n) if relation == "at least" else [max(n - 1, 0), n, n + 1]
    return [
        *(words(count) for count in counts),
        words(n, "-"),
        words(n, "_"),
        " ".join(["don't"] * (n // 2 + n % 2)),
        words(n - 1) + " \u00e9t\u00e9",
        words(n - 1) + " \u2014 \U0001f600 ...",
        words(n, ",\n\n* "),
    ]


def _nth_paragraph(num_paragraphs: int, nth_paragraph: int, first_word: str) -> list[str]:
    def text(count: int, first: str, gap: str = "\n\n", at: int = nth_paragraph) -> str:
        parts = [f"Here is part {number}." for number in range(1, count + 1)]
        if at <= count:
            parts[at - 1] = f"{first} is a word."
        return gap.join(parts)

    n, word = num_paragraphs, first_word
    return [
        text(n, word),
        text(n - 1, word),
        text(n + 1, word),
        text(n, word.upper() + ","),
        text(n, f'"{word}"'),
        text(n, f"'\"{word}!"),
        text(n, f"**{word}**"),
        text(n, f"{word}s"),
        text(n, f"{word}'s"),
        text(n, f"  {word}"),
        text(n, word, gap="\n\n\n"),
        text(n, word, gap="\n \n"),
        text(n, word, gap="\n"),
        text(n, word, at=nth_paragraph + 1),
        "\n\n" + text(n, word) + "\n\n",
    ]


def _bullets(num_bullets: int) -> list[str]:
    def text(count: int, head: str, gap: str = "\n") -> str:
        return gap.join(f"{head}point {number}" for number in range(1, count + 1))

    n = num_bullets
    return [
        *("Here are some:\n" + text(count, "* ") for count in around(n)),
        text(n, "- "),
        text(n, "   * "),
        text(n, "\u2022 "),
        text(n, "**", gap="**\n") + "**",
        text(n, "* ") + "\n---",
        text(n, "*\n"),
        text(n, "-"),
        text(n - 1, "* ") + "\n- one more",
        text(n, "* **Bold** "),
        text(n, "1. "),
        text(n, "* ", gap="\n\n"),
        text(n, "* ", gap=" "),
    ]


def _highlights(num_highlights: int) -> list[str]:
    n = num_highlights

    def text(count: int, one: str) -> str:
        return " and ".join([one] * count)

    return [
        *(text(count, "*a part*") for count in around(n)),
        text(n // 2 + n % 2, "**a part**"),
        text(n // 2, "**a part**"),
        text(n, "***a part***"),
        text(n, "_a part_"),
        text(n, "* *"),
        text(n, "**"),
        text(n, "*a\npart*"),
        "\n".join(["* a point"] * n),
        text(n, "<b>a part</b>"),
    ]


def _sections(section_spliter: str, num_sections: int) -> list[str]:
    n, name = num_sections, section_spliter

    def text(count: int, head: str) -> str:
        return "\n".join(f"{head.format(number)}\nText." for number in range(1, count + 1))

    return [
        *(text(count, name + " {}") for count in around(n)),
        text(n, name + "{}"),
        text(n, name.lower() + " {}"),
        text(n, name.upper() + " {}:"),
        text(n, f"**{name} " + "{}**"),
        text(n, name + "  {}"),
        text(n, name + " I"),
        text(1, name + " {}") * n,
        text(n, "Part {}"),
    ]


def _two_responses() -> list[str]:
    a, b = "It is one.", "It is two."
    return [
        f"{a}\n******\n{b}",
        f"{a}******{b}",
        f"{a}\n******\n{a}",
        f"{a}\n***\n{b}",
        f"{a}\n*******\n{b}",
        f"{a}\n************\n{b}",
        f"******\n{a}\n******\n{b}\n******",
        f"{a}\n******\n{b}\n******\nIt is three.",
        f"{a}\n******\n\n******\n{b}",
        f"{a} ****** {a} ",
        f"{a}\n******",
    ]


def _repeats(prompt_to_repeat: str) -> list[str]:
    prompt = prompt_to_repeat
    return [
        f"{prompt}\n\nHere is my answer.",
        f"Here is my answer.\n{prompt}",
        f"{prompt.upper()} Yes.",
        f"  \n{prompt}",
        f'"{prompt}"\nYes.',
        f"**{prompt}**\nYes.",
        prompt.strip()[:-1],
        prompt.replace(" ", "  ", 1) + " Yes.",
        f"Request: {prompt}",
    ]


def _ends(end_phrase: str) -> list[str]:
    text = "That is how it is done."
    return [
        f"{text} {end_phrase}",
        f"{end_phrase} {text}",
        f"{text} {end_phrase.upper()}  \n",
        f'"{text} {end_phrase}"',
        f"{text} {end_phrase}.",
        f"{text} *{end_phrase}*",
        f"{text} {end_phrase}\n\nP.S. Bye.",
        f"{text} {end_phrase[:-1]}",
        f"{text} {end_phrase.replace(' ', chr(10), 1)}",
        end_phrase,
        f"{text}{end_phrase}'",
    ]


def _capital_words(capital_relation: str, capital_frequency: int) -> list[str]:
    n = capital_frequency
    counts = around(n) if capital_relation == "at least" else [max(n - 1, 0), n, n + 1]

    def text(count: int, one: str, gap: str = " and ") -> str:
        return "it is " + gap.join([one] * count)

    return [
        *(text(count, "BIG") for count in counts),
        *(text(count, "DON'T", " ") for count in counts),
        text(n, "BIG-TIME"),
        text(n, "IT'S. The"),
        text(n, "CANNOT", " "),
        text(n, "I"),
        text(n, "\u201cBIG\u201d"),
        text(n, "**BIG**"),
        text(n, "3D"),
        text(n, "U.S."),
        text(n, "BIG/SMALL"),
        text(n, "\u0414\u0410"),
        text(n, "WANNA\n", ""),
        text(n, "'TIS O'CLOCK", " "),
        text(n, "BIG\u2014SMALL"),
        text(n, "Big"),
    ]


def _counted(relation: str, bound: int, one: str, gap: str) -> list[str]:
    counts = around(bound) if relation == "at least" else [max(bound - 1, 0), bound, bound + 1]
    return ["Hm " + gap.join([one] * count) + " hm" for count in counts]


def _keyword_times(keyword: str, relation: str, frequency: int) -> list[str]:
    return [
        *_counted(relation, frequency, keyword, " "),
        *_counted(relation, frequency, keyword.upper(), ", "),
        *_counted(relation, frequency, keyword, ""),
        *_counted(relation, frequency, f"un{keyword}ed", " "),
        *_counted(relation, frequency, f"*{keyword}*", " "),
        *_counted(relation, frequency, keyword[:-1], " "),
    ]


def _letter_times(letter: str, let_relation: str, let_frequency: int) -> list[str]:
    return [
        *_counted(let_relation, let_frequency, letter, " "),
        *_counted(let_relation, let_frequency, letter.upper(), ""),
        *_counted(let_relation, let_frequency, f"{letter}\u0301", " "),
        *_counted(let_relation, let_frequency, "\u0130", " "),
    ]


def _language(language: str) -> list[str]:
    text = TEXTS[language]
    other = TEXTS["de" if language == "en" else "en"]
    return [
        text,
        other,
        f"{text} {other}",
        f"{other} {other}\n{text}",
        f"{text}\n" * 3,
        text[:4],
        f"{other}\n{text}",
        f"{text}\n{other}",
        f"* {text}\n* https://example.org/{language}",
        TEXTS["fi" if language != "fi" else "it"],
    ]


def _english_in(case: str) -> list[str]:
    def cased(text: str) -> str:
        return text.upper() if case == "upper" else text.lower()

    text = words(30)
    return [
        cased(text),
        text.capitalize(),
        cased(TEXTS["de"]),
        cased(text) + " aA",
        cased("It is. " * 9),
        cased("Hello"),
        cased("Stra\u00dfe"),
        "ONE two",
        f"Sure:\n{cased(text)}",
        cased(TEXTS["ru"]),
    ]


SPECIAL: dict[str, Any] = {
    "keywords:existence": lambda keywords: [
        " and ".join(keywords),
        " and ".join(keywords[1:]) or "nothing",
        " ".join(keywords).upper(),
        " ".join(f"un{word}ed" for word in keywords),
        " ".join(word[:-1] for word in keywords),
        "\n".join(f"**{word}**" for word in keywords),
        "*".join("*".join(word) for word in keywords),
    ],
    "keywords:frequency": _keyword_times,
    "keywords:forbidden_words": lambda forbidden_words: [
        "Nothing of this kind is here.",
        f"It is {forbidden_words[-1]} here.",
        f"It is {forbidden_words[0].upper()}!",
        f"It is un{forbidden_words[0]}ed.",
        f"It is x-{forbidden_words[0]}'s.",
        f"It is {forbidden_words[0]}\u00e9.",
        f"It is {forbidden_words[0]}_.",
        f"It is {'*'.join(forbidden_words[0])}.",
        f"{forbidden_words[0]}\nNothing else.",
    ],
    "keywords:letter_frequency": _letter_times,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda num_placeholders: [
        *(" and ".join(["[name]"] * count) for count in around(num_placeholders)),
        "[]" * num_placeholders,
        "[a\nb]" * num_placeholders,
        "[a](b) " * num_placeholders,
        "[[a]]" * num_placeholders,
        "{name}" * num_placeholders,
        "[" * num_placeholders + "]",
    ],
    "detectable_content:postscript": lambda postscript_marker: [
        f"It is done.\n\n{postscript_marker} Bye.",
        "It is done.",
        f"It is done. {postscript_marker.lower()} bye.",
        "It is done.\nP. S. Bye.",
        "It is done.\nP. P. S. Bye.",
        "It is done.\nPS: Bye.",
        "It is done.\nPPS Bye.",
        "It is done.\nP.P.S. Bye.",
        "It is done.\nP.S Bye.",
        "It is done.\nP.\nS. Bye.",
        f"**{postscript_marker}** Bye.",
    ],
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda: [
        "My answer is yes.",
        "Yes.",
        "My answer is no",
        "my answer is maybe.",
        "Well: My answer is maybe. Or not.",
        "My answer is no.\nMy answer is yes.",
        "My answer is **yes**.",
        "My answer  is yes.",
    ],
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": lambda: [
        '{"a": [1, 2.5, null]}',
        "a: 1",
        '```json\n{"a": 1}\n```',
        '```JSON\n{"a": 1}```',
        "```Json [] ```",
        '```\n{"a": 1}\n```',
        '```javascript\n{"a": 1}\n```',
        '{"a": 1,}',
        "{'a': 1}",
        "NaN",
        "12",
        '"text"',
        '{"a": 1}\nThat is it.',
        'Here it is:\n{"a": 1}',
        "``````",
        '```json```{"a": 1}```',
        '{"a": "b\nc"}',
    ],
    "detectable_format:title": lambda: [
        "<<A title>>\nText.",
        "A title\nText.",
        "<<>>",
        "<< >>",
        "<A title>",
        "<<A\ntitle>>",
        "<<<A title>>>",
        "**<<A title>>** and <<>>",
        "<<<>>>",
        "\u00aba title\u00bb",
        "Text <<a>> and <<b>>.",
    ],
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": lambda: [
        '"A text."',
        "A text.",
        '"A text".',
        "'A text.'",
        "\u201cA text.\u201d",
        '"',
        '""',
        ' \n"A text."\n',
        '"A" and "b"',
        '*"A text."*',
    ],
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda: _english_in("upper"),
    "change_case:english_lowercase": lambda: _english_in("lower"),
    "punctuation:no_comma": lambda: [
        "No such mark is here.",
        "One, here.",
        "1,000",
        "One\u060c here\uff0c and\u3001here;",
        ",",
        "One, here.\nNone there.",
        "None there.\nOne, here.",
        "a*,*b",
    ],
}
"""By kind: responses, of which the first follows."""

SAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("keywords:existence", {"keywords": ["cat", "le"]}),
    ("keywords:frequency", {"keyword": "war", "relation": "at least", "frequency": 3}),
    ("keywords:frequency", {"keyword": "the", "relation": "less than", "frequency": 2}),
    ("keywords:forbidden_words", {"forbidden_words": ["can", "ride"]}),
    (
        "keywords:letter_frequency",
        {"letter": "I", "let_relation": "at least", "let_frequency": 4},
    ),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_relation": "less than", "let_frequency": 1},
    ),
    ("language:response_language", {"language": "de"}),
    ("language:response_language", {"language": "en"}),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 6}),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 40}),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 9}),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Elm"},
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "it"},
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_content:postscript", {"postscript_marker": "Note:"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
    ),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a line about Tea.  "}),
    ("startend:end_checker", {"end_phrase": "Is that all?"}),
    ("startend:quotation", {}),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 4},
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 3},
    ),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
]
"""Instructions of every kind, for where the prompts are not at hand."""
