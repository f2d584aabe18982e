"""HTML by functions. Whatever is not markup already is text, and is escaped."""

from __future__ import annotations

import html
import re

_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What a page may not hold, or what cannot be written as UTF-8: control codes, halves of pairs."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def plain(text: str) -> str:
    """The same text, with U+FFFD in place of what no page may hold."""
    return _FORBIDDEN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def escape(text: str) -> Markup:
    """Text as markup that shows it; markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text)))


def join(*parts: str) -> Markup:
    """Parts one after the other, each escaped unless it is markup."""
    return Markup("".join(escape(part) for part in parts))


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element with its children; None leaves an attribute out, "" has a name only.

    A name of Python's own takes a `_` at its end, and `_` stands for `-`.

    >>> element("p", "1 < 2", class_="soft")
    '<p class="soft">1 &lt; 2</p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        label = key.removesuffix("_").replace("_", "-")
        words.append(f'{label}="{escape(str(value))}"' if value != "" else label)
    return Markup(f"<{' '.join(words)}>{join(*children)}</{name}>")
