"""Markdown that is shown while it comes."""

import pytest
from afm_cli.chat_display import MarkdownAnswer, PlainAnswer, finished_blocks


@pytest.mark.parametrize(
    ("text", "done", "left"),
    [
        ("One.", "", "One."),
        ("One.\n\nTwo", "One.\n\n", "Two"),
        ("One.\n\nTwo.\n \nThree", "One.\n\nTwo.\n \n", "Three"),
        ("```py\na = 1\n\nb = 2\n", "", "```py\na = 1\n\nb = 2\n"),
        ("```py\na = 1\n\nb = 2\n```\n\nSo", "```py\na = 1\n\nb = 2\n```\n\n", "So"),
        ("One.\n\n~~~\na\n\nb", "One.\n\n", "~~~\na\n\nb"),
    ],
)
def test_markdown_is_cut_behind_whole_blocks_and_never_in_code(text, done, left):
    assert finished_blocks(text) == (done, left)


def test_an_answer_in_pieces_is_printed_once_and_rendered(capsys):
    answer = MarkdownAnswer()
    for piece in ("Some **bo", "ld** words.\n", "\n- one\n- two", "\n\n```\nx = 1\n\ny = 2\n```"):
        answer.add(piece)
    answer.note('weather({"city": "Rome"})')
    answer.add("It is *warm*.")
    answer.close()
    shown = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert shown == [
        "Some bold words.",
        "\u2022 one",
        "\u2022 two",
        "x = 1",
        "y = 2",
        'weather({"city": "Rome"})',
        "It is warm.",
    ]


def test_where_nobody_looks_text_stays_as_it_is(capsys):
    answer = PlainAnswer()
    for piece in ("Some **bo", "ld** words."):
        answer.add(piece)
    answer.close()
    assert capsys.readouterr().out == "Some **bold** words.\n"
