"""Which license a list allows."""

import pytest
from pydantic import ValidationError

from afm_mlx.settings.licenses import NOT_KNOWN, PERMISSIVE, allow_list, allows, both, ids_in, spdx
from afm_mlx.settings.sections import Source

MIT = frozenset({"MIT"})


def source(**settings):
    return Source(kind="code", path="folder", **settings)


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("mit", "MIT"),
        ("apache-2.0 or Mit", "Apache-2.0 OR MIT"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("GPL-2.0+ AND lgpl-2.1", "GPL-2.0-or-later AND LGPL-2.1-only"),
        ("GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("(GPL-2.0 WITH Linux-syscall-note)", "GPL-2.0-only WITH Linux-syscall-note"),
        ("(MIT OR ISC) AND Zlib", "(MIT OR ISC) AND Zlib"),
        ("Apache 2.0", None),
        ("MIT/Apache-2.0", None),
        ("UNLICENSED", None),
        ("other", None),
        ("MIT OR", None),
        ("(" * 5_000, None),
        ("(" * 300 + "MIT" + ")" * 300, None),
        ("MIT OR \x00", None),
        ("", None),
    ],
)
def test_an_expression_has_one_spelling(written, usual):
    assert spdx(written) == usual


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("ISC", False),
        ("MIT OR GPL-2.0-only", True),
        ("GPL-2.0-only OR MIT", True),
        ("MIT AND GPL-2.0-only", False),
        ("MIT AND MIT", True),
        ("ISC OR MIT AND ISC", False),  # AND binds closer
        ("(ISC OR MIT) AND MIT", True),
        ("((ISC) OR (MIT AND (MIT OR ISC)))", True),
        ("MIT WITH LLVM-exception", True),
        ("MIT+", True),
        (NOT_KNOWN, False),
        (f"MIT AND {NOT_KNOWN}", False),
        (f"MIT OR {NOT_KNOWN}", True),
    ],
)
def test_of_or_one_side_is_enough_and_of_and_both_are_needed(expression, allowed):
    assert allows(MIT, expression) is allowed


def test_any_allows_all_that_is_known():
    every = allow_list(["any"])
    assert allows(every, "GPL-3.0-only AND LicenseRef-odd")
    assert not allows(every, f"MIT AND {NOT_KNOWN}")


def test_permissive_has_no_license_that_asks_to_share():
    assert {spdx(id) for id in PERMISSIVE} == PERMISSIVE
    assert {"MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "0BSD", "PSF-2.0"} <= PERMISSIVE
    share = ("GPL", "AGPL", "LGPL", "MPL", "EPL", "EUPL", "CDDL", "CC-BY-SA", "CC-BY-NC", "OSL")
    assert not [id for id in PERMISSIVE if id.startswith(share)]
    assert allow_list(["permissive", "MPL-2.0"]) == PERMISSIVE | {"permissive", "MPL-2.0"}


def test_several_licenses_all_hold():
    assert both(["MIT", "ISC", "MIT"]) == "MIT AND ISC"
    assert both(["MIT OR ISC", "Zlib"]) == "(MIT OR ISC) AND Zlib"
    assert both(["MIT OR ISC"]) == "MIT OR ISC"
    assert ids_in("(MIT OR ISC WITH LLVM-exception) AND Zlib") == ["MIT", "ISC", "Zlib"]


def test_settings_take_ids_in_any_case_and_refuse_other_words():
    assert source(licenses=["mit", "permissive", "GPL-2.0"]).licenses == (
        "MIT",
        "permissive",
        "GPL-2.0-only",
    )
    for wrong in ("Apache 2.0", "MIT OR ISC", "free", ""):
        with pytest.raises(ValidationError, match="is no SPDX id of a license"):
            source(licenses=[wrong])


def test_settings_take_languages_in_any_case_and_name_the_nearest():
    assert source(code_languages=["swift", "c++"]).code_languages == ("Swift", "C++")
    with pytest.raises(ValidationError, match=r"'Pyton' is no language .*did you mean 'Python'"):
        source(code_languages=["Pyton"])
    with pytest.raises(ValidationError, match="code_languages is for kind code"):
        Source(kind="text", path="x", code_languages=["C"])
