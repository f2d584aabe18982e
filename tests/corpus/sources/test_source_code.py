"""Programming languages by file type."""

from collections import Counter

import pytest

from afm_mlx.corpus.documents import read_documents
from afm_mlx.corpus.sources.source_code import code_language
from afm_mlx.settings.code_languages import BY_ENDING, BY_NAME, CODE_LANGUAGES
from afm_mlx.settings.sections import Source


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("a.swift", "", "Swift"),
        ("A.PY", "", "Python"),
        ("a.mm", "", "Objective-C"),
        ("Makefile", "", "Makefile"),
        ("CMakeLists.txt", "", "CMake"),
        ("dev.Dockerfile", "", "Dockerfile"),
        ("a.h", "#ifndef A_H\n#include <stdio.h>\nint f(void);\n", "C"),
        ("a.h", "#include <vector>\nint f(void);\n", "C++"),
        ("a.h", "namespace a {\n}\n", "C++"),
        ("a.h", "class A : public B {\n public:\n};\n", "C++"),
        ("a.h", "/* a class of\n   functions */\nstruct a { int public; };\n", "C"),
        (
            "a.h",
            "#import <Foundation/Foundation.h>\n@interface A : NSObject\n@end\n",
            "Objective-C",
        ),
        ("a.m", "#import <Foundation/Foundation.h>\n@implementation A\n@end\n", "Objective-C"),
        ("a.m", "% adds two numbers\nfunction c = add(a, b)\n  c = a + b;\nend\n", "MATLAB"),
        ("a.pl", "use strict;\nprint 1;\n", "Perl"),
        ("a.pl", ":- module(a, [b/1]).\nb(X) :- c(X).\n", "Prolog"),
        ("a.v", "module top(input a);\nendmodule\n", "Verilog"),
        ("a.v", "Require Import Arith.\nLemma a : True.\n", "Coq"),
        ("a.unknown", "", ""),
    ],
)
def test_language_of_a_file(name, text, language):
    assert code_language(name, text) == language
    assert language in {*CODE_LANGUAGES, ""}


def test_every_ending_has_a_language_that_settings_know():
    assert set(BY_ENDING.values()) | set(BY_NAME.values()) <= set(CODE_LANGUAGES)
    assert list(CODE_LANGUAGES) == sorted(CODE_LANGUAGES, key=str.lower)
    # The 14 of R24, as far as they are named.
    named = "Swift", "Python", "C", "Objective-C", "C++", "JavaScript", "Java", "Go"
    assert set(named) <= set(BY_ENDING.values())


def test_only_the_languages_of_the_settings_are_read_and_the_rest_is_counted(tmp_path):
    for name, text in {"a.py": "x = 1\n", "b.c": "int x;\n", "c.h": "namespace a {}\n"}.items():
        (tmp_path / name).write_text(text)
    skipped = Counter()
    source = Source(kind="code", path=str(tmp_path), code_languages=["Python", "C++"])
    found = [(doc.id, doc.code_language) for doc in read_documents("code", source, skipped)]
    assert found == [("a.py", "Python"), ("c.h", "C++")]
    assert skipped == {"language C": 1}
