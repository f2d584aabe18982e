"""Programming languages by the endings and names of files."""

from __future__ import annotations

_ENDINGS = """
    Ada: adb ads
    Assembly: asm s
    Batch: bat
    C: c
    C#: cs
    C++: cc cpp cxx hh hpp hxx ino
    Clojure: clj cljs
    CMake: cmake
    Coq:
    CSS: css less scss
    CUDA: cu cuh
    D: d
    Dart: dart
    Dockerfile:
    Elixir: ex exs
    Elm: elm
    Erlang: erl hrl
    F#: fs
    Fortran: f f90
    GLSL: glsl metal wgsl
    Go: go
    Groovy: gradle groovy
    Haskell: hs
    Java: java
    JavaScript: js jsx mjs
    Julia: jl
    Kotlin: kt kts
    Lisp: el lisp
    Lua: lua
    Makefile: mak mk
    MATLAB:
    Nim: nim
    Nix: nix
    Objective-C: m mm
    OCaml: ml mli
    OpenCL: cl
    Pascal: pas
    Perl: pl pm
    PHP: php
    PowerShell: ps1
    Prolog:
    Protocol Buffers: proto
    Python: py pyi pyx
    R: r
    Racket: rkt
    Ruby: rb
    Rust: rs
    Scala: scala
    Scheme: scm
    Shell: bash sh zsh
    Solidity: sol
    SQL: sql
    Swift: swift
    Tcl: tcl
    Terraform: tf
    TeX: tex
    Thrift: thrift
    TypeScript: ts tsx
    Verilog: sv v
    VHDL: vhd vhdl
    Vim script: vim
    Visual Basic: vb
    Vue: vue
    Zig: zig
"""
_LINES = [line.strip().partition(":") for line in _ENDINGS.strip().splitlines()]

CODE_LANGUAGES = tuple(name for name, _, _ in _LINES)
"""The names, in alphabetical order."""

BY_ENDING = {f".{end}": name for name, _, ends in _LINES for end in ends.split()} | {".h": "C"}
"""Language by ending, in lower case; an ending that several use has the most frequent one's."""

BY_NAME = {"makefile": "Makefile", "dockerfile": "Dockerfile", "cmakelists.txt": "CMake"}
"""Language by the whole name of a file, in lower case."""
