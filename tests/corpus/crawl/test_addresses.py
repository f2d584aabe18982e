import pytest

from afm_mlx.corpus.crawl.addresses import Bounds, normalize_url
from afm_mlx.settings.web import Scope


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a#b", "https://example.org/a"),
        ("http://example.org:8080/", "http://example.org:8080/"),
        ("http://example.org/a/./b/../c/..", "http://example.org/a/"),
        ("http://example.org//a", "http://example.org//a"),
        ("http://example.org/%7euser/%c3%bc", "http://example.org/~user/%C3%BC"),
        ("http://example.org/ü x?q=ü", "http://example.org/%C3%BC%20x?q=%C3%BC"),
        ("http://example.org?q=1&b=2", "http://example.org/?q=1&b=2"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://user:password@example.org/", "http://example.org/"),
        ("http://example.org./", "http://example.org/"),
        ("  http://example.org/a\nb ", "http://example.org/ab"),
        ("http://[::1]:8000/", "http://[::1]:8000/"),
        ("ftp://example.org/", None),
        ("mailto:me@example.org", None),
        ("javascript:void(0)", None),
        ("http://[bad/", None),
        ("http://example.org:99999/", None),
        ("http:///a", None),
        ("http://exa mple.org/", None),
        ("http://example.org/" + "a" * 3_000, None),
        ("", None),
    ],
)
def test_addresses_have_one_spelling(url, normal):
    assert normalize_url(url) == normal
    assert normal is None or normalize_url(normal) == normal


@pytest.mark.parametrize(
    ("url", "hosts", "folders"),
    [
        ("http://example.org/d/e/f", True, True),
        ("https://www.example.org/d/", True, True),
        ("http://example.org/d", True, False),
        ("http://example.org/dd/", True, False),
        ("http://example.org:8080/d/", False, False),
        ("http://other.example.org/d/", False, False),
        ("http://example.organic/d/", False, False),
    ],
)
def test_bounds_are_the_hosts_or_the_folders_of_the_seeds(url, hosts, folders):
    seeds = ["http://example.org/d/index.html"]
    assert (url in Bounds.around(seeds, Scope.HOSTS)) == hosts
    assert (url in Bounds.around(seeds, Scope.FOLDERS)) == folders
    assert url in Bounds.around(seeds, Scope.ANYWHERE)
