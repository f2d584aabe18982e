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
        ("a<sup>2</sup>", "a^2"),
        ("the 19<sup>th</sup>", "the 19th"),
    ],
)
def test_formulas_become_latex_once(formula, expected):
    assert markdown(f"<p>so {formula} is</p>") == f"so {expected} is"
