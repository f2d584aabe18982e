import pytest

pytest.importorskip("lxml")
from lxml import html

from afm_mlx.corpus.web.markdown import join_blocks, prepare_page, read_blocks


def markdown(body: str) -> str:
    """A fragment through the renderer alone."""
    tree = html.document_fromstring(f"<html><body>{body}</body></html>")
    prepare_page(tree)
    return join_blocks(read_blocks(tree))


def test_headings_paragraphs_and_line_breaks():
    assert markdown("<h1>One</h1><p>Some  text\n of it.<br>New line</p><h3>Three</h3>Loose") == (
        "# One\n\nSome text of it.\nNew line\n\n### Three\n\nLoose"
    )


def test_lists_keep_marks_numbers_and_nesting():
    nested = "<ul><li>a <b>bold</b></li><li>b<ul><li>c</li></ul></li></ul>"
    assert markdown(nested) == "- a bold\n- b\n  - c"
    assert markdown("<ol><li>a</li><li><p>b</p><p>more</p></li></ol>") == "1. a\n2. b\n  more"


def test_tables_keep_cells_and_layout_tables_do_not_become_tables():
    table = "<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>3|4</td></tr></table>"
    assert markdown(table) == "| Name | Age |\n|---|---|\n| Ann | 3/4 |"
    layout = "<table><tr><td><p>left</p><p>more</p></td><td>right</td></tr></table>"
    assert markdown(layout) == "left\n\nmore\n\nright"


def test_code_keeps_its_lines_indentation_and_language():
    code = '<pre><code class="language-python">def f(x):\n    <b>return</b> x\n\n\ny</code></pre>'
    assert markdown(code) == "```python\ndef f(x):\n    return x\n\n\ny\n```"
    assert markdown("<p>Call <code>f(1)</code> now</p>") == "Call `f(1)` now"


def test_quotations_are_marked():
    assert markdown("<blockquote><p>So it is.</p></blockquote>") == "> So it is."
