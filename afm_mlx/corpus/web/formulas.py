"""Formulas of a page as LaTeX: MathML, KaTeX, MathJax, and pictures of formulas."""

from __future__ import annotations

import re
from typing import Any

_SPACES = re.compile(r"\s+")


def write_tex(tree: Any) -> None:
    """Replace formulas by their LaTeX, each one once although pages write them twice or more."""
    for script in tree.xpath("//script[starts-with(@type, 'math/tex')]"):
        _replace(script, script.text or "", display="mode=display" in script.get("type"))
    for rendered in tree.xpath(
        "//span[contains(@class, 'MathJax_Preview')] | //span[@class='MathJax']"
        "[not(.//math)] | //div[contains(@class, 'MathJax_Display')][not(.//math)]"
    ):
        rendered.drop_tree()
    wrapped = (
        "//span[contains(concat(' ', @class, ' '), ' katex ')] | //mjx-container"
        " | //span[contains(@class, 'mwe-math-element')] | //span[@class='MathJax'][.//math]"
    )
    for wrapper in tree.xpath(wrapped):
        maths = [node for node in wrapper.iter() if _name(node) == "math"]
        if maths:
            outer = wrapper.getparent()
            display = (
                maths[0].get("display") == "block"
                or wrapper.get("display") == "true"
                or (outer is not None and "katex-display" in (outer.get("class") or ""))
            )
            _replace(wrapper, _tex(maths[0]), display=display)
    for math in _outermost(tree):
        _replace(math, _tex(math), display=math.get("display") == "block")
    for image in tree.xpath("//img[@alt][contains(@class, 'latex') or contains(@class, 'tex')]"):
        if image.get("class") in ("latex", "tex", "ql-img-inline-formula", "mwe-math-fallback"):
            _replace(image, image.get("alt"), display=False)


def _outermost(tree: Any) -> list[Any]:
    """The MathML elements that are in no other one."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        if _name(node) == "math":
            found.append(node)
        else:
            todo.extend(node)
    return found


def _replace(node: Any, tex: str, *, display: bool) -> None:
    """Put LaTeX in place of an element; a formula on a line of its own becomes a paragraph."""
    tail, tex = node.tail, _SPACES.sub(" ", tex).strip()
    if tex.startswith("{\\displaystyle") and tex.endswith("}"):  # how Wikipedia starts them
        tex = tex.removeprefix("{\\displaystyle")[:-1].strip()
    tex = tex.strip("$ ")
    node.clear()
    node.tail = tail
    parent = node.getparent()
    inline = not display or (parent is not None and parent.tag in ("p", "li", "td", "span"))
    node.tag = "span" if inline else "p"
    if tex:
        node.text = f"$${tex}$$" if display else f"${tex}$"


def _name(node: Any) -> str:
    """Tag of an element without a namespace or its prefix."""
    tag = node.tag if isinstance(node.tag, str) else ""
    return tag.rpartition("}")[2].rpartition(":")[2]


def _tex(math: Any) -> str:
    """LaTeX of a MathML element: the one it brings along, else one made from its elements."""
    for node in math.iter():
        if _name(node) == "annotation" and "tex" in (node.get("encoding") or "").lower():
            return node.text or ""
    return math.get("alttext") or _linear(math)


def _linear(node: Any) -> str:
    """LaTeX of presentation MathML: fractions, roots, scripts, matrices; others one by one."""
    name = _name(node)
    if not name or name.startswith("annotation"):
        return ""
    parts = [_linear(child) for child in node if isinstance(child.tag, str)]
    match name, parts:
        case "mfrac", [above, below]:
            return f"\\frac{{{above}}}{{{below}}}"
        case "msqrt", _:
            return f"\\sqrt{{{' '.join(parts)}}}"
        case "mroot", [inner, degree]:
            return f"\\sqrt[{degree}]{{{inner}}}"
        case (("msup" | "mover"), [base, above]):
            return f"{base}^{{{above}}}"
        case (("msub" | "munder"), [base, below]):
            return f"{base}_{{{below}}}"
        case (("msubsup" | "munderover"), [base, below, above]):
            return f"{base}_{{{below}}}^{{{above}}}"
        case "mtr", _:
            return " & ".join(parts)
        case "mtable", _:
            return "\\begin{matrix} " + " \\\\ ".join(parts) + " \\end{matrix}"
    text = (node.text or "").strip() if not parts else ""
    return " ".join(part for part in [text, *parts] if part)
