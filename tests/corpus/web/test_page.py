import pytest

pytest.importorskip("lxml")

from afm_mlx.corpus.web.page import parse_page


def test_parsing_says_where_a_page_is_too_deep():
    tree, problem = parse_page("<p>\n" + "<div>" * 300)
    assert tree is None
    assert "256" in problem
