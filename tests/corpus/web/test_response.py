import gzip
import zlib

from afm_mlx.corpus.web.response import plain_body


def test_encodings_are_undone_or_found_to_be_undone_already():
    deflated = zlib.compress(b"hello")
    for name, value, body in [
        ("Content-Encoding", "gzip", gzip.compress(b"hello")),
        ("Content-Encoding", "gzip", b"hello"),
        ("Content-Encoding", "deflate", deflated),
        ("Content-Encoding", "deflate", deflated[2:-4]),
        ("Content-Encoding", "identity", b"hello"),
        ("Transfer-Encoding", "chunked", b"2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\n\r\n"),
        ("Transfer-Encoding", "chunked", b"hello"),
    ]:
        assert plain_body([(name, value)], body, max_bytes=100) == b"hello", (name, value)
