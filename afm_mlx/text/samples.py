"""Short texts of several kinds, and how many bytes a tokenizer packs into one token of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from afm_mlx.text.tokenizer import Tokenizer

SAMPLES: dict[str, str] = {
    "English": (
        "The harbor was quiet that morning. Two boats had gone out before dawn, and the others lay "
        "along the wall with their sails down, waiting for the tide. An old woman sold bread and "
        "coffee from a cart, as she had done for thirty years; she knew every captain by name, "
        "and which of them would pay on Friday.\n\nBy noon the wind had turned.\n"
    ),
    "Python": (
        "def moving_average(values: list[float], window: int) -> list[float]:\n"
        '    """Mean of each `window` values in a row."""\n'
        "    if window < 1:\n"
        '        raise ValueError(f"window is {window}, must be at least 1")\n'
        "    total, averages = 0.0, []\n"
        "    for index, value in enumerate(values):\n"
        "        total += value\n"
        "        if index >= window:\n"
        "            total -= values[index - window]\n"
        "        if index >= window - 1:\n"
        "            averages.append(total / window)\n"
        "    return averages\n"
    ),
    "Markdown": (
        "# Getting started\n\nInstall the package, then run the first example:\n\n"
        "```sh\npip install example\nexample run --all\n```\n\n"
        "| option | meaning |\n|---|---|\n| `--all` | run **everything** |\n"
        "| `--dry-run` | only say what would be done |\n\n"
        "- See the [guide](docs/guide.md) for more.\n- Report problems on the issue page.\n"
    ),
    "JSON": (
        '{"type": "function", "function": {"name": "get_weather", "parameters": {"type": '
        '"object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", '
        '"minimum": 1}}, "required": ["city"]}}, "results": [true, false, null]}\n'
    ),
    "Numbers": (
        "3.14159 2.71828 1,000,000 42 -17.5 6.02e23 0x7fff 2024-07-29 12:34:56 99.95% "
        "1/3 = 0.3333 $12,345.67 192.168.0.1 +1 555 0100\n"
    ),
    "German": (
        "Am n\u00e4chsten Morgen lag Schnee auf den D\u00e4chern. Die Stra\u00dfe war still, nur "
        "der B\u00e4cker hatte schon ge\u00f6ffnet, und vor seiner T\u00fcr warteten f\u00fcnf "
        "Leute auf die ersten Br\u00f6tchen. \u00dcber Nacht war es kalt geworden.\n"
    ),
    "Chinese": (
        "\u4eca\u5929\u65e9\u4e0a\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u4e00\u8d77\u53bb"
        "\u516c\u56ed\u6563\u6b65\u3002\u6e56\u8fb9\u6709\u5f88\u591a\u4eba\uff0c\u5b69\u5b50"
        "\u4eec\u5728\u8349\u5730\u4e0a\u653e\u98ce\u7b5d\uff0c\u8001\u4eba\u5750\u5728\u6811"
        "\u4e0b\u559d\u8336\u3002\n"
    ),
    "Emoji": (
        "\U0001f600 \U0001f680\U0001f680 \u2764\ufe0f \U0001f44d\U0001f3fd "
        "\U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea \U0001f389\U0001f382 \u2603\n"
    ),
}
"""Kind of text to a text of that kind. Written for this file."""


@dataclass(frozen=True)
class Density:
    """How a tokenizer packs one text."""

    bytes: int
    """Of UTF-8."""
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Mean; more is denser."""
        return self.bytes / max(1, self.tokens)


def densities(tokenizer: Tokenizer, texts: Mapping[str, str] = SAMPLES) -> dict[str, Density]:
    """Bytes and tokens of each text, by its name. Raises as `Tokenizer.encode`."""
    ids = tokenizer.encode_batch(list(texts.values()))
    return {
        name: Density(bytes=len(text.encode()), tokens=len(numbers))
        for (name, text), numbers in zip(texts.items(), ids, strict=True)
    }
