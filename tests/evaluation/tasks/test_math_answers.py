r"""Answers that are the same, from the rules that the benchmark's authors publish, and others."""

import pytest

from afm_mlx.evaluation.tasks.math_algebra import equal_as_algebra
from afm_mlx.evaluation.tasks.math_answers import (
    final_answer,
    last_boxed,
    normal_form,
    same_answer,
    stated_answer,
)

HENDRYCKS = [  # From the comments of hendrycks/math, modeling/math_equivalence.py.
    (r"\frac1b", r"\frac{1}{b}"),
    (r"\frac12", r"\frac{1}{2}"),
    (r"\frac1{72}", r"\frac{1}{72}"),
    ("a/b", "a/b"),
    ("1/2", r"\frac{1}{2}"),
    (r"\sqrt3", r"\sqrt{3}"),
    (r"\tfrac12", r"\dfrac12"),
    (r"\left(1\right)", "(1)"),
    (r"45^{\circ}", "45"),
    (r"45^\circ", "45"),
    (r"\$5", "5"),
    (r"5\text{ cm}", "5"),
    (r"5\%", "5"),
    (" .5", "0.5"),
    (".5", "0.5"),
    (r"\frac{.5}{2}", r"\frac{0.5}{2}"),
    ("k = 7", "7"),
    ("q = 7", "7"),
    ("0.5", r"\frac{1}{2}"),
    (r"1\!0", "10"),
    ("1 0", "10"),
]
LEWKOWYCZ = [  # From appendix D of arXiv:2206.14858.
    (r"\frac ab", r"\frac{a}{b}"),
    (r"\frac{abc}{bef}", r"\frac{abc}{bef}"),
    (r"\frac abc", r"\frac{a}{b}c"),
    (r"\sqrt a", r"\sqrt{a}"),
    (r"\sqrt ab", r"\sqrt{a}b"),
    ("100,000", "100000"),
    ("x = 100,000", "100000"),
    ("$24$", "24"),
    (r"\textbf{24}", "24"),
    (r"24\mathrm{th}", "24"),
    (r"1 \text{and} 2", "1,2"),
]
OURS = [
    ("0.25", r"\frac{1}{4}"),
    ("3.0", "3"),
    (r"2\frac{1}{3}", r"\frac{7}{3}"),
    (r"-\frac{2}{3}", r"\frac{-2}{3}"),
    ("-2/3", r"-\frac23"),
    (r"5\text{ cm}^2", "5"),
    (r"x \in [-2,7]", "[-2, 7]"),
    (r"(\frac12, 3)", "(0.5,3)"),
    ("2,3", "3, 2"),
    (r"2 \text{ or } -2", "-2, 2"),
    (r"\text{(B)}", "B"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\left( 1, \infty \right)", r"(1,\infty)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\sqrt[3]2", r"\sqrt[3]{2}"),
    ("\u22125", "-5"),
    ("5.", "5"),
]
DIFFERENT = [
    ("1,2", "12"),
    ("0,1", "01"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    (r"\{1,2\}", "(1,2)"),
    ("(0,1)", "0,1"),
    ("1,2", "1,2,3"),
    ("1,1,2", "1,2,2"),
    (r"0.\overline{3}", "0.3"),
    ("0.33", r"\frac13"),
    (r"\frac{1}{0}", "1"),
    (r"5\sqrt2", "5"),
    ("a", "A"),
    ("x = 1, y = 2", "2"),
    ("2", "-2"),
    ("", "0"),
]


@pytest.mark.parametrize(("one", "other"), HENDRYCKS + LEWKOWYCZ + OURS)
def test_answers_that_say_the_same_are_the_same(one, other):
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_answers_that_say_something_else_are_not(one, other):
    assert not same_answer(one, other)
    assert not same_answer(other, one)


@pytest.mark.parametrize("answer", [one for one, _ in HENDRYCKS + LEWKOWYCZ + OURS + DIFFERENT])
def test_a_normal_form_stays_as_it_is(answer):
    assert normal_form(normal_form(answer)) == normal_form(answer)
    assert same_answer(answer, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"It is $\boxed 5$ then.", "5"),
        (r"It is \fbox{3}.", "3"),
        (r"\boxed{\left\{ 1 \right\}}", r"\left\{ 1 \right\}"),
        (r"It was \boxed{3} and is \boxed{4", "3"),
        (r"\boxed{", None),
        (r"\boxed{}", ""),
        ("It is 3.", None),
        ("", None),
    ],
)
def test_the_last_box_that_is_closed_holds_the_answer(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: The final answer is $[2,5)$. I hope it is correct.", "$[2,5)$"),
        ("The final answer is $3.5$.", "$3.5$"),
        (r"The final answer is: $\boxed{3}$, I hope.", "3"),
        ("The final answer is 7\nProblem: The final answer is 8", "7"),
        ("The final answer is", None),
        ("It is 3.", None),
    ],
)
def test_an_answer_is_found_where_it_is_said_to_be_final(text, answer):
    assert stated_answer(text) == answer


def test_what_is_stated_goes_before_what_is_boxed():
    assert final_answer(r"\boxed{1} The final answer is 2.") == "2"
    assert final_answer(r"\boxed{1} is my answer") == "1"
    assert final_answer("1") is None


@pytest.fixture
def sympy():
    pytest.importorskip("sympy", reason="needs the extra math")
    pytest.importorskip("antlr4", reason="needs the extra math")


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("x+1", "1+x", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("x", "y", False),
        ("[1,2)", "[1,2]", False),
        (r"\text{no}", r"\frac{", False),
        ("", "", False),
    ],
)
def test_sympy_knows_what_texts_do_not_tell(one, other, equal, sympy):
    assert equal_as_algebra(one, other) == equal


def test_an_expression_that_takes_too_long_is_unequal(sympy, monkeypatch):
    from afm_mlx.evaluation.tasks import math_algebra

    monkeypatch.setattr(math_algebra, "SECONDS", 0.2)
    assert not equal_as_algebra("9^{9^{9^{9}}} + x", "x")
