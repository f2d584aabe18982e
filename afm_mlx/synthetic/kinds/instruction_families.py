"""Families of writing tasks: each adds a constraint to an answer, and shapes it so that it is kept.

First comes the form of the text, then what is put into it, then what is read off it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from afm_mlx.synthetic.constraints import sentences, words
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.topics import TOPICS

_PLAIN_WORDS = (
    "the", "and", "that", "with", "which", "their", "they", "from", "have", "than", "this", "into",
    "when", "where", "every", "each", "other", "many", "most", "more", "some", "very",
)  # fmt: skip
_ENDINGS = (
    "That is all.", "Thank you for reading.", "Now it is your turn.", "The end.",
    "There is always more to discover.",
)  # fmt: skip
_OPENINGS = ("Dear reader,", "Good news:", "Listen closely.", "Once upon a time,", "In short:")
_POSTSCRIPTS = ("P.S. Share this with a friend.", "P.S. More will follow soon.",
                "P.S. Questions are welcome.")  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """An answer in the making."""

    topic: str
    lines: Sequence[str]
    """Its sentences."""
    text: str
    """As it is now."""
    constraints: Sequence[dict[str, Any]] = ()
    asks: Sequence[str] = field(default=())
    """The constraints in words."""


Shape = Callable[[Draw, Draft], Draft | None]
"""Adds a constraint, and changes the text where that is needed; None: it does not fit here."""


def _with(draft: Draft, ask: str, text: str | None = None, /, **constraint: Any) -> Draft:
    return replace(
        draft,
        text=draft.text if text is None else text,
        constraints=[*draft.constraints, constraint],
        asks=[*draft.asks, ask],
    )


def _bullets(draw: Draw, draft: Draft) -> Draft:
    count = len(draft.lines)
    ask = draw.pick((
        f"Answer with exactly {count} bullet points, each on a line that begins with '- '.",
        f"Use a list of {count} bullets ('- '), and nothing else.",
    ))  # fmt: skip
    text = "\n".join(f"- {line}" for line in draft.lines)
    return _with(draft, ask, text, name="bullets", count=count)


def _numbered(draw: Draw, draft: Draft) -> Draft:
    count = len(draft.lines)
    ask = draw.pick((
        f"Make it a numbered list of {count} points: '1. ', '2. ' and so on.",
        f"Number your points from 1 to {count}, one on each line, as in '1. ...'.",
    ))  # fmt: skip
    text = "\n".join(f"{number}. {line}" for number, line in enumerate(draft.lines, 1))
    return _with(draft, ask, text, name="numbered_list", count=count)


def _paragraphs(draw: Draw, draft: Draft) -> Draft:
    count = draw.between(2, min(4, len(draft.lines)))
    size = -(-len(draft.lines) // count)
    parts = [" ".join(draft.lines[i : i + size]) for i in range(0, len(draft.lines), size)]
    ask = draw.pick((
        f"Write {len(parts)} paragraphs, with an empty line between them.",
        f"The text must have exactly {len(parts)} paragraphs, apart by empty lines.",
    ))  # fmt: skip
    return _with(draft, ask, "\n\n".join(parts), name="paragraphs", count=len(parts))


def _parts(draw: Draw, draft: Draft) -> Draft:
    marker = draw.pick(("Part", "Section", "Chapter", "Step"))
    count = draw.between(2, min(4, len(draft.lines)))
    size = -(-len(draft.lines) // count)
    groups = [draft.lines[i : i + size] for i in range(0, len(draft.lines), size)]
    text = "\n".join(f"{marker} {n}\n{' '.join(group)}" for n, group in enumerate(groups, 1))
    ask = draw.pick((
        f"Divide it into {len(groups)} parts headed '{marker} 1', '{marker} 2' and so on.",
        f"Use {len(groups)} headings of the form '{marker} N', numbered from 1, each on its own line.",
    ))  # fmt: skip
    return _with(draft, ask, text, name="parts", marker=marker, count=len(groups))


def _json_object(draw: Draw, draft: Draft) -> Draft:
    keys = draw.some(("fact", "detail", "advice", "reason", "example", "note", "summary"),
                     min(len(draft.lines), 4))  # fmt: skip
    text = json.dumps(dict(zip(keys, draft.lines, strict=False)), indent=2)
    said = ", ".join(f"'{key}'" for key in keys)
    ask = draw.pick((
        f"Reply with a JSON object whose keys are {said}, and with nothing around it.",
        f"The whole answer must be JSON: an object with exactly these keys: {said}.",
    ))  # fmt: skip
    return _with(draft, ask, text, name="json_keys", keys=keys)


def _json_list(draw: Draw, draft: Draft) -> Draft:
    count = len(draft.lines)
    ask = draw.pick((
        f"Answer only with a JSON array of {count} strings.",
        f"Give {count} statements as one JSON list, without any other text.",
    ))  # fmt: skip
    return _with(draft, ask, json.dumps(list(draft.lines)), name="json_list", count=count)


def _acrostic(draw: Draw, draft: Draft) -> Draft | None:
    letters: dict[str, str] = {}
    for line in TOPICS[draft.topic]:
        letters.setdefault(line[0].lower(), line)
    known = [
        word for word in _ACROSTICS if set(word) <= set(letters) and len(set(word)) == len(word)
    ]
    if not known:
        return None
    word = draw.pick(known)
    text = "\n".join(letters[letter] for letter in word)
    ask = f"Write {len(word)} lines whose first letters spell '{word.upper()}' from top to bottom."
    return _with(replace(draft, lines=text.splitlines()), ask, text, name="acrostic", word=word)


_ACROSTICS = (
    "act", "ago", "am", "an", "arm", "art", "as", "at", "bar", "bat", "cab", "car", "cat", "fat",
    "fog", "form", "from", "go", "in", "is", "it", "log", "low", "map", "mat", "most", "no", "of",
    "on", "or", "ram", "rat", "row", "sat", "saw", "sit", "so", "tab", "tar", "to", "was",
)  # fmt: skip


def _title(draw: Draw, draft: Draft) -> Draft:
    head = draw.pick((f"# About {draft.topic}", f"# {draft.topic.capitalize()}",
                      f"# A few words on {draft.topic}"))  # fmt: skip
    ask = draw.pick(("Begin with a title, on a line that starts with '# '.",
                     "Put a heading above the text, written as '# Heading'."))  # fmt: skip
    return _with(draft, ask, f"{head}\n\n{draft.text}", name="title")


def _postscript(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Add a postscript at the end that begins with 'P.S. '.",
                     "Close with a line that starts with 'P.S. '."))  # fmt: skip
    return _with(draft, ask, f"{draft.text}\n\n{draw.pick(_POSTSCRIPTS)}", name="postscript")


def _ends(draw: Draw, draft: Draft) -> Draft:
    end = draw.pick(_ENDINGS)
    ask = draw.pick((f"Finish with exactly this sentence: {end}",
                     f"The last words must be '{end}' and nothing may follow."))  # fmt: skip
    return _with(draft, ask, f"{draft.text} {end}", name="ends_with", phrase=end)


def _begins(draw: Draw, draft: Draft) -> Draft:
    start = draw.pick(_OPENINGS)
    ask = draw.pick((f"Begin with the words '{start}'",
                     f"The answer has to start with exactly this: {start}"))  # fmt: skip
    ask += "" if ask.endswith(".") else "."
    return _with(draft, ask, f"{start} {draft.text}", name="begins_with", phrase=start)


def _question(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("End with a question to the reader.",
                     "The last sentence must be a question."))  # fmt: skip
    end = draw.pick((f"What do you like about {draft.topic}?", "Did you know that?",
                     f"Who would not want to learn more about {draft.topic}?"))  # fmt: skip
    return _with(draft, ask, f"{draft.text} {end}", name="question_last")


def _placeholders(draw: Draw, draft: Draft) -> Draft:
    names = draw.some(("[name]", "[date]", "[place]", "[address]", "[phone]"), draw.between(1, 3))
    said = {"[name]": "Contact: [name].", "[date]": "Printed on [date].",
            "[place]": "Available in [place].", "[address]": "Write to [address].",
            "[phone]": "Call [phone]."}  # fmt: skip
    text = " ".join([draft.text, *(said[name] for name in names)])
    count = len(names)
    ask = draw.pick((
        f"Leave at least {count} placeholder(s) in square brackets, such as [name], to be filled in.",
        f"Include {count} or more blanks to fill in, written like [date].",
    )).replace("placeholder(s)", "placeholder" if count == 1 else "placeholders")  # fmt: skip
    return _with(draft, ask, text, name="placeholders", count=count)


def _highlighted(draw: Draw, draft: Draft) -> Draft | None:
    long = list(dict.fromkeys(re.findall(r"\b[a-z]{5,}\b", draft.text)))
    if len(long) < 3:
        return None
    chosen = draw.some(long, draw.between(1, 3))
    text = draft.text
    for word in chosen:
        text = re.sub(rf"\b{word}\b", f"**{word}**", text, count=1)
    count = len(chosen)
    ask = draw.pick((
        f"Set at least {count} word{'s' * (count > 1)} in bold, as in **bold**.",
        f"Highlight {count} or more words or phrases with double asterisks (**like this**).",
    ))  # fmt: skip
    return _with(draft, ask, text, name="highlighted", count=count)


def _quoted(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Put the whole answer in double quotation marks.",
                     "Wrap everything you write in one pair of double quotes."))  # fmt: skip
    return _with(draft, ask, f'"{draft.text}"', name="quoted")


def _lower(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Use lowercase letters only.", "Do not use a single capital letter.",
                     "All letters must be in lower case."))  # fmt: skip
    return _with(draft, ask, draft.text.lower(), name="lower_case")


def _upper(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Write everything in capital letters.", "Use upper case throughout."))
    return _with(draft, ask, draft.text.upper(), name="upper_case")


def _shouted(draw: Draw, draft: Draft) -> Draft | None:
    long = list(dict.fromkeys(re.findall(r"\b[a-z]{4,}\b", draft.text)))
    if len(long) < 4:
        return None
    chosen = draw.some(long, draw.between(1, 4))
    text = draft.text
    for word in chosen:
        text = re.sub(rf"\b{word}\b", word.upper(), text, count=1)
    count = len(chosen)
    ask = draw.pick((
        f"Write at least {count} word{'s' * (count > 1)} entirely in capital letters.",
        f"For emphasis, put {count} or more words in capitals.",
    ))  # fmt: skip
    return _with(draft, ask, text, name="shouted_words", count=count)


def _no_commas(draw: Draw, draft: Draft) -> Draft | None:
    if "," in draft.text:
        return None
    ask = draw.pick(("Do not use any commas.", "The text must not contain a comma.",
                     "Avoid commas altogether."))  # fmt: skip
    return _with(draft, ask, name="no_commas")


def _no_digits(draw: Draw, draft: Draft) -> Draft | None:
    if any(map(str.isdigit, draft.text)):
        return None
    ask = draw.pick(
        ("Do not use any digits.", "No numerals, please: the answer may hold no digit.")
    )
    return _with(draft, ask, name="no_digits")


def _no_list(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Write running text, not a list.", "Do not use bullet points or numbering."))
    return _with(draft, ask, name="no_list")


def _impersonal(draw: Draw, draft: Draft) -> Draft:
    ask = draw.pick(("Do not speak of yourself: no I, me, we or our.",
                     "Avoid the first person entirely."))  # fmt: skip
    return _with(draft, ask, name="no_first_person")


def _avoid_letter(draw: Draw, draft: Draft) -> Draft | None:
    absent = [letter for letter in "jkqvxz" if letter not in draft.text.lower()]
    if not absent:
        return None
    letter = draw.pick(absent)
    ask = draw.pick((f"Do not use the letter '{letter}' anywhere.",
                     f"The letter '{letter}' must not occur in your answer."))  # fmt: skip
    return _with(draft, ask, name="avoids_letter", letter=letter)


def _avoid_words(draw: Draw, draft: Draft) -> Draft | None:
    used = {word.lower() for word in words(draft.text)}
    others = {
        word
        for line in TOPICS[draft.topic]
        for word in re.findall(r"\b[a-z]{4,}\b", line)
        if word not in used
    }
    candidates = sorted(others) + [word for word in _PLAIN_WORDS if word not in used]
    chosen = draw.some(candidates, draw.between(1, 3))
    if not chosen:
        return None
    said = ", ".join(f"'{word}'" for word in chosen)
    ask = draw.pick((f"Do not use these words: {said}.", f"Avoid the following: {said}.",
                     f"Forbidden: {said}."))  # fmt: skip
    return _with(draft, ask, name="avoids", words=chosen)


def _keywords(draw: Draw, draft: Draft) -> Draft | None:
    long = sorted({word.lower() for word in words(draft.text) if len(word) > 4})
    if len(long) < 4:
        return None
    chosen = draw.some(long, draw.between(1, 3))
    said = ", ".join(f"'{word}'" for word in chosen)
    ask = draw.pick((f"Use these words: {said}.", f"Your text must contain {said}.",
                     f"Make sure that {said} can be found in it."))  # fmt: skip
    return _with(draft, ask, name="contains", words=chosen)


def _times(draw: Draw, draft: Draft) -> Draft | None:
    used = [word.lower() for word in words(draft.text)]
    choices = sorted({word for word in used if len(word) > 2})
    if not choices:
        return None
    word = draw.pick([w for w in choices if used.count(w) > 1] or choices)
    count = used.count(word)
    times = {1: "exactly once", 2: "exactly twice"}.get(count, f"exactly {count} times")
    ask = draw.pick((f"The word '{word}' must occur {times}.", f"Use '{word}' {times}."))
    return _with(draft, ask, name="contains_times", word=word, count=count)


def _at_least(draw: Draw, draft: Draft) -> Draft:
    count = max(5, len(words(draft.text)) * draw.between(6, 10) // 10 // 5 * 5)
    ask = draw.pick((f"Write at least {count} words.", f"The answer needs {count} words or more."))
    return _with(draft, ask, name="at_least_words", count=count)


def _at_most(draw: Draw, draft: Draft) -> Draft:
    count = -(-len(words(draft.text)) * draw.between(10, 14) // 50) * 5
    ask = draw.pick((f"Use at most {count} words.", f"Stay within {count} words.",
                     f"It must not be longer than {count} words."))  # fmt: skip
    return _with(draft, ask, name="at_most_words", count=count)


def _between(draw: Draw, draft: Draft) -> Draft:
    count = len(words(draft.text))
    least, most = max(1, count - draw.between(2, 15)), count + draw.between(2, 15)
    ask = draw.pick((f"Write between {least} and {most} words.",
                     f"The length must be {least} to {most} words."))  # fmt: skip
    return _with(draft, ask, name="words_between", least=least, most=most)


def _sentences(draw: Draw, draft: Draft) -> Draft:
    count = len(sentences(draft.text))
    ask = draw.pick((f"Write exactly {count} sentences.", f"Answer in {count} sentences."))
    return _with(
        draft, ask if count > 1 else "Write exactly one sentence.", name="sentences", count=count
    )


def _at_most_sentences(draw: Draw, draft: Draft) -> Draft:
    count = len(sentences(draft.text)) + draw.below(3)
    ask = draw.pick((f"Use no more than {count} sentences.", f"{count} sentences at most, please."))
    return _with(draft, ask, name="at_most_sentences", count=count)


_FORM, _ADDS, _WRAPS, _CASE, _READ = 0, 1, 2, 3, 4
SHAPES: dict[str, tuple[int, Shape]] = {
    "bullets": (_FORM, _bullets), "numbered": (_FORM, _numbered), "paragraphs": (_FORM, _paragraphs),
    "parts": (_FORM, _parts), "json-object": (_FORM, _json_object), "json-list": (_FORM, _json_list),
    "acrostic": (_FORM, _acrostic),
    "highlighted": (_ADDS, _highlighted), "shouted": (_ADDS, _shouted),
    "placeholders": (_ADDS, _placeholders), "begins": (_WRAPS, _begins), "title": (_WRAPS, _title),
    "ends": (_WRAPS, _ends), "postscript": (_WRAPS, _postscript), "question": (_WRAPS, _question),
    "quoted": (_CASE, _quoted), "lower-case": (_CASE, _lower), "upper-case": (_CASE, _upper),
    "no-commas": (_READ, _no_commas), "no-digits": (_READ, _no_digits), "no-list": (_READ, _no_list),
    "impersonal": (_READ, _impersonal), "avoid-letter": (_READ, _avoid_letter),
    "avoid-words": (_READ, _avoid_words), "keywords": (_READ, _keywords), "times": (_READ, _times),
    "at-least-words": (_READ, _at_least), "at-most-words": (_READ, _at_most),
    "words-between": (_READ, _between), "sentences": (_READ, _sentences),
    "at-most-sentences": (_READ, _at_most_sentences),
}  # fmt: skip
"""By name: its turn among those of one answer, and what it does."""

_WHOLE = {"json-object", "json-list", "acrostic", "quoted"}  # nothing may stand before or after
_AROUND = {"begins", "title", "ends", "postscript", "question", "placeholders"}
_LISTS = {"bullets", "numbered"}
_COLLIDE: list[set[str]] = [
    *({whole, around} for whole in _WHOLE for around in _AROUND),
    *({"json-object", other} for other in ("lower-case", "upper-case", "quoted", "sentences")),
    *({"json-list", other} for other in ("lower-case", "upper-case", "quoted", "sentences")),
    *({"acrostic", other} for other in ("quoted", "highlighted")),
    *({"json-object", other} for other in ("highlighted", "shouted", "at-most-sentences")),
    *({"json-list", other} for other in ("highlighted", "shouted", "at-most-sentences")),
    *({form, around} for form in (*_LISTS, "parts", "paragraphs") for around in _AROUND),
    *({form, "no-list"} for form in (*_LISTS, "json-list", "json-object", "parts")),
    *({"numbered", other} for other in ("no-digits", "sentences", "at-most-sentences")),
    *({"parts", other} for other in ("no-digits", "sentences", "at-most-sentences", "upper-case", "lower-case")),
    *({case, other} for case in ("lower-case", "upper-case")
      for other in ("begins", "ends", "postscript", "shouted", "title", "placeholders")),
    {"upper-case", "impersonal"}, {"lower-case", "impersonal"}, {"acrostic", "lower-case"},
    {"bullets", "sentences"}, {"bullets", "at-most-sentences"}, {"title", "begins"},
    {"ends", "question"}, {"ends", "postscript"}, {"postscript", "question"}, {"title", "sentences"},
    {"at-least-words", "words-between"}, {"at-most-words", "words-between"},
    {"sentences", "at-most-sentences"}, {"postscript", "sentences"}, {"begins", "sentences"},
    {"postscript", "at-most-sentences"}, {"title", "at-most-sentences"}, {"begins", "at-most-sentences"},
    *({"quoted", form} for form in (*_LISTS, "parts")),
    {"keywords", "times"}, {"acrostic", "at-least-words"}, {"highlighted", "quoted"},
]  # fmt: skip


def goes_with(one: str, other: str) -> bool:
    """Whether two kinds can stand in one task: at most one decides the form, and no two collide."""
    if SHAPES[one][0] == SHAPES[other][0] == _FORM or SHAPES[one][0] == SHAPES[other][0] == _CASE:
        return False
    return not any({one, other} <= group for group in _COLLIDE)
