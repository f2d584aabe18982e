"""The license of each file of a source tree."""

import os
from collections import Counter
from pathlib import Path

import pytest

from afm_mlx.corpus.documents import read_documents
from afm_mlx.errors import DataError
from afm_mlx.settings.sections import Source

pytest.importorskip("licenseclassifier")

MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
ISC = """Copyright (c) 2020 Somebody

Permission to use, copy, modify, and/or distribute this software for any purpose with or without
fee is hereby granted, provided that the above copyright notice and this permission notice appear
in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS
SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE
AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT,
NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.
"""
GPL_NOTICE = """/* Copyright (C) 2020 Somebody

   This program is free software: you can redistribute it and/or modify it under the terms of the
   GNU General Public License as published by the Free Software Foundation, either version 3 of the
   License, or (at your option) any later version.

   This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without
   even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU
   General Public License for more details. */
"""
APACHE_NOTICE = """# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
"""
CODE = "int x = 1;\n"


def licenses(folder: Path, files: dict[str, str | bytes], allowed=("any",), **settings):
    """License of each file that is kept, and what was left out."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    skipped = Counter()
    source = Source(kind="code", path=str(folder), licenses=allowed, **settings)
    found = {doc.id: doc.license for doc in read_documents("code", source, skipped)}
    return found, dict(skipped)


@pytest.mark.parametrize(
    ("head", "license"),
    [
        ("// SPDX-License-Identifier: Apache-2.0\n", "Apache-2.0"),
        ("/* SPDX-License-Identifier: (GPL-2.0+ OR MIT) */\n", "GPL-2.0-or-later OR MIT"),
        ("<!-- SPDX-License-Identifier: MIT -->\n", "MIT"),
        ("# SPDX-License-Identifier: MIT\r\n# SPDX-License-Identifier: ISC\r\n", "MIT AND ISC"),
        (APACHE_NOTICE, "Apache-2.0"),
        ("".join(f" * {line}\n" for line in ISC.splitlines()), "ISC"),
        ("// See the file LICENSE.\n", "MIT"),
        ("", "MIT"),
    ],
)
def test_the_start_of_a_file_decides_before_the_license_of_its_folder(tmp_path, head, license):
    found, _ = licenses(tmp_path, {"LICENSE": MIT, "a.c": head + CODE})
    assert found == {"a.c": license}


def test_a_vendored_file_under_the_gpl_does_not_pass_as_its_folder(tmp_path):
    files = {"LICENSE": MIT, "a.c": CODE, "b.c": GPL_NOTICE + CODE}
    found, skipped = licenses(tmp_path, files, ["permissive"])
    assert found == {"a.c": "MIT"}
    assert skipped == {"license GPL-3.0-or-later": 1}


def test_the_nearest_license_upwards_counts(tmp_path):
    files = {"LICENSE": MIT, "a/b/x.c": CODE, "a/COPYING.txt": ISC, "y.c": CODE, "c/d/z.c": CODE}
    assert licenses(tmp_path, files)[0] == {"y.c": "MIT", "a/b/x.c": "ISC", "c/d/z.c": "MIT"}


def test_no_folder_above_the_source_is_looked_at(tmp_path):
    (tmp_path / "LICENSE").write_text(MIT)
    with pytest.raises(DataError, match="skipped 1 no license"):
        licenses(tmp_path / "src", {"x.c": CODE})


def test_a_single_file_has_the_license_beside_it(tmp_path):
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / "x.c").write_text(CODE)
    source = Source(kind="code", path=str(tmp_path / "x.c"), licenses=["MIT"])
    assert [doc.license for doc in read_documents("code", source, Counter())] == ["MIT"]


@pytest.mark.parametrize(
    ("files", "license"),
    [
        ({"LICENSE-MIT": MIT, "LICENSE-ISC": ISC}, "ISC AND MIT"),
        ({"LICENSE": MIT + "\n" + ISC}, "ISC AND MIT"),
        ({"package.json": '{"license": "MIT"}'}, "MIT"),
        ({"package.json": '{"license": {"type": "MIT"}}'}, "MIT"),
        ({"package.json": '{"licenses": [{"type": "MIT"}, {"type": "ISC"}]}'}, "MIT OR ISC"),
        ({"pyproject.toml": '[project]\nlicense = "mit"'}, "MIT"),
        ({"pyproject.toml": '[project]\nlicense = {text = "ISC"}'}, "ISC"),
        ({"pyproject.toml": '[tool.poetry]\nlicense = "ISC"'}, "ISC"),
        ({"Cargo.toml": '[workspace.package]\nlicense = "MIT OR ISC"'}, "MIT OR ISC"),
        (
            {"LICENSE-MIT": MIT, "COPYING": ISC, "Cargo.toml": '[package]\nlicense="MIT OR ISC"'},
            "MIT OR ISC",
        ),
        ({"LICENSE": MIT, "package.json": '{"license": "ISC"}'}, "ISC AND MIT"),
        ({"LICENSE": MIT, "package.json": '{"license": "SEE LICENSE IN LICENSE"}'}, "MIT"),
        ({"LICENSES/MIT.txt": MIT, "LICENSES/GPL-2.0-only.txt": "..."}, "GPL-2.0-only AND MIT"),
        ({"LICENSE": MIT, "LICENSES/GPL-2.0-only.txt": "..."}, "MIT"),
        ({"UNLICENSE": "SPDX-License-Identifier: Unlicense\n"}, "Unlicense"),
        ({"LICENSE": MIT, "license.py": "x = 1\n"}, "MIT"),
    ],
)
def test_a_folder_says_its_license(tmp_path, files, license):
    assert licenses(tmp_path, files | {"x.c": CODE})[0]["x.c"] == license


def test_reuse_files_say_which_files_have_which_license(tmp_path):
    reuse = """version = 1
[[annotations]]
path = ["**"]
SPDX-License-Identifier = "MIT"
[[annotations]]
path = "lib/**"
SPDX-License-Identifier = ["ISC", "Zlib"]
"""
    dep5 = "Format: 1.0\n\nFiles: *\nLicense: MIT\n\nFiles: a/*\n b/*\nLicense: ISC\n"
    files = {"one/REUSE.toml": reuse, "one/x.c": CODE, "one/lib/deep/y.c": CODE}
    files |= {"two/.reuse/dep5": dep5, "two/x.c": CODE, "two/b/y.c": CODE}
    assert licenses(tmp_path, files)[0] == {
        "one/x.c": "MIT",
        "one/lib/deep/y.c": "ISC AND Zlib",
        "two/x.c": "MIT",
        "two/b/y.c": "ISC",
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"sub/LICENSE": "All rights reserved. You may look at this."},
        {"sub/LICENSE": MIT.encode("utf-16")},
        {"sub/LICENSE": b"\x00\x01\x02" * 1_000},
        {"sub/LICENSE": ""},
        {"sub/LICENSE": MIT + "x y z\n" * 200_000},
        {"sub/package.json": '{"license": "UNLICENSED"}'},
        {"sub/LICENSE": "who knows", "sub/package.json": '{"license": "MIT"}'},
    ],
    ids=["own words", "utf-16", "binary", "empty", "too long", "no license", "unclear"],
)
def test_a_license_that_is_not_recognized_is_not_the_one_above(tmp_path, bad):
    files = {"LICENSE": MIT, "x.c": CODE, "sub/y.c": CODE}
    found, skipped = licenses(tmp_path, files | bad)
    assert found == {"x.c": "MIT"}
    assert skipped == {"license not known": 1}
    found, skipped = licenses(tmp_path, {}, ["MIT"], keep_unlicensed=True)
    assert set(found) == {"x.c", "sub/y.c"}
    assert "NOASSERTION" in found["sub/y.c"]
    assert skipped == {}


def test_broken_metadata_says_nothing(tmp_path):
    broken = {
        "package.json": "{" * 100_000,
        "pyproject.toml": "[project",
        "Cargo.toml": b"\xff",
        "composer.json": '["license"]',
        "REUSE.toml": "annotations = 3",
        ".reuse/dep5": b"Files: \xff",
    }
    assert licenses(tmp_path, broken | {"LICENSE": MIT, "x.c": CODE})[0] == {"x.c": "MIT"}


def test_links_in_a_circle_and_pipes_do_not_stop_the_reading(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "LICENSE").symlink_to("LICENSE")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "LICENSE")
    files = {"LICENSE": MIT, "a/x.c": CODE, "b/y.c": CODE}
    assert licenses(tmp_path, files)[0] == {"a/x.c": "MIT", "b/y.c": "MIT"}


def test_a_license_file_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "LICENSE").open("wb") as file:
        file.truncate(2**30)  # a hole, that takes no space
    with pytest.raises(DataError, match="skipped 1 license not known"):
        licenses(tmp_path, {"x.c": CODE})


def test_a_license_stated_in_the_recipe_is_for_files_that_state_none(tmp_path):
    files = {"x.c": CODE, "y.c": "// SPDX-License-Identifier: ISC\n" + CODE, "a/z.c": CODE}
    files["a/LICENSE"] = "own words"
    found, skipped = licenses(tmp_path, files, ["MIT"], license="mit")
    assert found == {"x.c": "MIT"}
    assert skipped == {"license ISC": 1, "license not known": 1}


def test_without_a_filter_nothing_is_looked_for(tmp_path):
    found, skipped = licenses(tmp_path, {"LICENSE": MIT, "x.c": CODE}, [], license="my own")
    assert (found, skipped) == ({"x.c": "my own"}, {})
