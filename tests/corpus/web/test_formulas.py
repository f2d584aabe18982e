import pytest

pytest.importorskip("lxml")
from lxml import html

from afm_mlx.corpus.web.markdown import join_blocks, prepare_page, read_blocks


def markdown(body: str) -> str:
    """A fragment through the renderer alone."""
    tree = html.document_fromstring(f"<html><body>{body}</body></html>")
    prepare_page(tree)
    return join_blocks(read_blocks(tree))


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ('<script type="math/tex">a^2</script>', "$a^2$"),
        ('<script type="math/tex; mode=display">a^2</script>', "$$a^2$$"),
        (
            '<span class="katex"><span class="katex-mathml"><math><semantics><mi>a</mi>'
            '<annotation encoding="application/x-tex">a^2</annotation></semantics></math></span>'
            '<span class="katex-html">a2</span></span>',
            "$a^2$",
        ),
        ('<math alttext="a^2"><mi>a</mi></math>', "$a^2$"),
        (
            "<math><mfrac><mn>1</mn><msup><mi>x</mi><mn>2</mn></msup></mfrac></math>",
            r"$\frac{1}{x^{2}}$",
        ),
        (
            '<span class="mwe-math-element"><span><math alttext="{\\displaystyle a^2}"></math>'
            '</span><img class="mwe-math-fallback-image-inline" alt="a^2"></span>',
            "$a^2$",
        ),
        ('<img class="latex" alt="a^2">', "$a^2$"),
        (
            "<math><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr>"
            "<mtr><mtd><mn>0</mn></mtd><mtd><mn>1</mn></mtd></mtr></mtable></math>",
            r"$\begin{matrix} 1 & 0 \\ 0 & 1 \end{matrix}$",
        ),
        (
            "<math><munderover><mo>&sum;</mo><mi>i</mi><mi>n</mi></munderover></math>",
            "$\u2211_{i}^{n}$",
        ),
        (
            '<math><semantics><mi>a</mi><annotation encoding="application/x-tex">a_1</annotation>'
            "</semantics></math>",
            "$a_1$",
        ),
        (r"\(a^2\)", r"\(a^2\)"),
        ("a<sup>2</sup>", "a^2"),
        ("the 19<sup>th</sup>", "the 19th"),
    ],
)
def test_formulas_become_latex_once(formula, expected):
    assert markdown(f"<p>so {formula} is</p>") == f"so {expected} is"


def test_a_displayed_formula_of_katex_is_a_line_of_its_own():
    shown = (
        '<p>So:</p><span class="katex-display"><span class="katex"><span class="katex-mathml">'
        '<math display="block"><semantics><mi>a</mi><annotation encoding="application/x-tex">a^2'
        '</annotation></semantics></math></span><span class="katex-html">a2</span></span></span>'
        "<p>It is.</p>"
    )
    assert markdown(shown) == "So:\n\n$$a^2$$\n\nIt is."
