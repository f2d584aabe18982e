import pytest

pytest.importorskip("lxml")

from afm_mlx.corpus.web.page import page_size, parse_page


def test_parsing_says_where_a_page_is_too_deep():
    tree, problem = parse_page("<p>\n" + "<div>" * 300)
    assert tree is None
    assert "256" in problem


def test_text_counts_once_for_each_element_around_it():
    tree, _ = parse_page("<div>four</div>tail<script>not counted</script>")
    # html, body, div and script at depths 1, 2, 3 and 3; the text at 3, the tail at 2.
    assert page_size(tree) == (4, 40 * (1 + 2 + 3 + 3) + 4 * 3 + 4 * 2)
