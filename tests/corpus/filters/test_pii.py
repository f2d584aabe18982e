"""Personal data: what is found, what is left alone. All of it is invented or reserved."""

import pickle

import pytest
from pydantic import ValidationError

from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import RecipeError
from afm_mlx.settings.filters import Pii, PiiKind, PiiMode

pytest.importorskip("phonenumbers", reason="pip install 'afm-mlx[corpus]'")

from afm_mlx.corpus.filters.pii import PiiFilter


def masked(text, **settings):
    answer = PiiFilter(Pii(most_finds=1_000, **settings))(Record("a", text))
    assert isinstance(answer, Record)
    return answer.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to Jane.Doe+x@mail.example.com.", "Write to <email>."),
        ("<jane@example.org>, 'joe@b\u00fccher.example.de'", "<<email>>, '<email>'"),
        ("\u90ae\u7bb1jane@example.com\u3002", "\u90ae\u7bb1<email>\u3002"),
        ("mailto:jane@example.co.uk?subject=x", "mailto:<email>?subject=x"),
        ("call (650) 253-0000 now", "call <phone> now"),
        ("650-253-0000, 650.253.0001; 1-650-253-0002", "<phone>, <phone>; <phone>"),
        ("+44 20 7946 0958 or +49 30 123456", "<phone> or <phone>"),
        ("tel:+16502530000", "tel:<phone>"),
        ("Phone: 6502530000", "Phone: <phone>"),
        ("in 1999 650-253-0000", "in 1999 <phone>"),
        ("Visa 4111 1111 1111 1111, 4111-1111-1111-1111", "Visa <card>, <card>"),
        ("Amex 3782 822463 10005 and 378282246310005.", "Amex <card> and <card>."),
        ("card=5555555555554444", "card=<card>"),
        ("SSN 123-45-6789", "SSN <ssn>"),
        ("my SSN is 123 45 6789", "my SSN is <ssn>"),
        ("social security number: 123456789", "social security number: <ssn>"),
        ("pay GB82 WEST 1234 5698 7654 32 IN FULL", "pay <iban> IN FULL"),
        ("DE89370400440532013000.", "<iban>."),
        ("from 93.184.216.34:443", "from <ip>:443"),
        ("http://93.184.216.34/x", "http://<ip>/x"),
        ("[2606:2800:220:1::248]", "[<ip>]"),
        ("a@example.com b@example.com", "<email> <email>"),
        ("4111 1111 1111 1111 650-253-0000 123-45-6789", "<card> <phone> <ssn>"),
    ],
)
def test_personal_data_is_masked(text, expected):
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "version 93.184.216.34",
        "v10.2.100.5 and Chrome/120.0.6099.71 and numpy==1.26.100.4 and pkg-4.3.200.1",
        "sections 1.2.3.4 and 10.11.12.13",
        "object identifiers 1.3.101.112, 2.5.29.37 and 1.3.6.1.4.1.311",
        "3.14159265358979, 650.2530000, 4.1111111111111111 and 0.4111111111111111",
        "1,234,567,890 or 1 234 567 890 or 1.234.567.890,50",
        "2023-10-05 12:30:45.123456, 1999-2003, 10/12/2023, 12.10.2023, 2023/10/05 12",
        "call on 2023-10-05 12:30 or text me 10/12/2023",
        "timestamps 1700000000, 1700000000000 and 20231005123045",
        "0x4111111111111111, 4111111111111111L, x4111111111111111 and id_5555555555554444",
        "550e8400-e29b-41d4-a716-446655440000 and 123-45-6789-0123",
        "sha 4111111111111111a and 9f86d081884c7d659a2feaa0c55ad015",
        "https://example.com/status/4111111111111111 and #5555555555554444",
        "git@github.com:apple/axlearn.git, icon@2x.png, pkg@1.2.3 and @app.route",
        "std::vector, x[2000::2], a::b, 12:30:45, 2001:02:03 and fe80::1",
        "local 10.200.30.40, 192.168.1.100, 127.0.0.255 and 2001:db8::1",
        "resolvers 8.8.8.8 and 1.1.1.1, mask 255.255.255.0, not 93.184.216.340",
        "ISBN 978-0-306-40615-7, ISSN 1234-5678, arXiv:2407.21075, doi:10.1016/0304-4076",
        "fictional 555-123-4567 and local 555-1234",
        "not cards: 4111 1111 1111 1112 and 1234 5678 9012 3456",
        "not SSNs: 000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567 and 123-45-0000",
        "nine digits: 123456789 and 123 45 6789",
        "not IBANs: GB82 WEST 1234 5698 7654 33, XX82WEST12345698765432 and ABC12345678901234567",
        "for i in range(10): a[i] = (1, 2, 3) + (4.5e-10, 6)",
        "values = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]",
        "lat 40.712800, long -74.006000",
        "2019 2020 2021 2022 2023",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text):
    assert masked(text) == text


def test_the_region_decides_how_a_number_without_country_code_reads():
    paris = "01 42 68 53 00"
    assert masked(paris, region="FR") == "<phone>"
    assert masked(paris, region="US") == paris
    assert masked("020 7946 0958", region="GB") == "<phone>"
    assert masked("tel 030 1234567", region="DE") == "tel <phone>"


def test_only_the_kinds_asked_for_are_looked_for():
    text = "a@example.com 650-253-0000 4111 1111 1111 1111"
    assert masked(text, kinds=(PiiKind.EMAIL,)) == "<email> 650-253-0000 4111 1111 1111 1111"
    assert masked(text, kinds=(PiiKind.CARD,)) == "a@example.com 650-253-0000 <card>"
    assert masked(text, kinds=()) == text


def test_finds_are_counted_and_the_rest_of_the_record_is_kept():
    record = Record("a", "x@example.com 93.184.216.34 y@example.com", "web", facts={"x": 1})
    kept = PiiFilter(Pii())(record)
    assert kept == Record(
        "a", "<email> <ip> <email>", "web", facts={"x": 1, "pii": {"email": 2, "ip": 1}}
    )


def test_a_record_without_finds_is_untouched():
    record = Record("a", "nothing personal", facts={"x": 1})
    assert PiiFilter(Pii())(record) is record


def test_masking_twice_changes_nothing_more():
    once = masked("a@example.com, +16502530000, 123-45-6789, DE89370400440532013000, 93.184.216.34")
    assert masked(once) == once == "<email>, <phone>, <ssn>, <iban>, <ip>"


def test_a_document_with_more_finds_than_allowed_is_dropped():
    keep = PiiFilter(Pii(most_finds=2))
    assert isinstance(keep(Record("a", "x@example.com " * 2)), Record)
    assert keep(Record("a", "x@example.com " * 3, "web")) == Drop(
        "a", "web", "pii.too-many", "email 3; most 2"
    )


def test_mode_drop_drops_at_the_first_find_and_quotes_none_of_it():
    keep = PiiFilter(Pii(mode=PiiMode.DROP))
    assert isinstance(keep(Record("a", "nothing personal")), Record)
    dropped = keep(Record("a", "SSN 123-45-6789, x@example.com"))
    assert dropped == Drop("a", "", "pii.found", "email 1, ssn 1")


def test_an_unknown_region_is_a_users_mistake():
    with pytest.raises(RecipeError, match="region 'XX'"):
        PiiFilter(Pii(region="XX"))
    with pytest.raises(ValidationError):
        Pii(region="usa")


def test_no_text_raises_and_a_pickled_filter_answers_the_same(strange_texts):
    keep = PiiFilter(Pii())
    again = pickle.loads(pickle.dumps(keep))
    hostile = ["@a." * 9_000, "(" * 9_000, "1 " * 9_000, "2001:" * 9_000, "12 34 56 78 90 " * 900]
    for text in [*strange_texts, *hostile]:
        assert keep(Record("a", text)) == again(Record("a", text))


def test_finds_do_not_overlap_and_cover_what_they_name(strange_texts):
    keep = PiiFilter(Pii())
    for text in strange_texts:
        stop = 0
        for find in keep.find(text):
            assert stop <= find.start < find.stop <= len(text)
            stop = find.stop
