import json
import resource
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder.weights import check_tensors, read_headers, read_weights, write_weights
from afm_mlx.errors import ModelError

WEIGHTS = {name: mx.arange(6).reshape(2, 3) + i / 2 for i, name in enumerate("abcd")}


def test_weights_come_back_in_their_own_formats(tmp_path: Path):
    formats = (mx.float32, mx.float16, mx.bfloat16)
    weights = {str(dtype): WEIGHTS["b"].astype(dtype) for dtype in formats}
    write_weights(tmp_path, weights)
    read = read_weights(tmp_path, read_headers(tmp_path))
    assert {name: array.dtype for name, array in read.items()} == {str(d): d for d in formats}
    assert all(mx.array_equal(read[name], weights[name]) for name in weights)


def test_large_weights_are_split_into_shards_with_an_index(tmp_path: Path):
    write_weights(tmp_path, WEIGHTS, shard_bytes=60)  # two tensors of 24 bytes each
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 96, "total_parameters": 24}
    assert index["weight_map"]["b"] == files[0]
    assert index["weight_map"]["c"] == files[1]
    read = read_weights(tmp_path, read_headers(tmp_path))
    assert all(mx.array_equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def test_writing_again_leaves_nothing_of_the_weights_before(tmp_path: Path):
    write_weights(tmp_path, WEIGHTS, shard_bytes=60)
    write_weights(tmp_path, {"a": WEIGHTS["a"]})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert list(read_headers(tmp_path)) == ["a"]


def test_a_cut_file_is_refused_with_both_sizes(tmp_path: Path):
    write_weights(tmp_path, WEIGHTS)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=f"has {len(whole) - 1:,} bytes, its header says") as found:
        read_headers(tmp_path)
    assert f"{len(whole):,}" in str(found.value)


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_without_a_header_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="no readable safetensors header"):
        read_headers(tmp_path)


def test_an_absent_shard_is_named(tmp_path: Path):
    write_weights(tmp_path, WEIGHTS, shard_bytes=60)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors, which"):
        read_headers(tmp_path)


def test_a_damaged_index_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ModelError, match="not an index of weights"):
        read_headers(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="has no weights"):
        read_headers(tmp_path)


def test_other_number_formats_are_refused_by_name(tmp_path: Path):
    write_weights(tmp_path, {"packed": mx.zeros((2, 2), dtype=mx.uint32)})
    with pytest.raises(ModelError, match="packed is U32, not float32"):
        read_weights(tmp_path, read_headers(tmp_path))


def test_wrong_tensors_are_named_up_to_three_and_then_counted():
    wanted = {name: (2, 3) for name in "abcdefgh"}
    with pytest.raises(ModelError, match=r"^m lacks b, c, d and 4 more$"):
        check_tensors({"a": (2, 3)}, wanted, "m")
    with pytest.raises(ModelError, match=r"^m has tensors that this decoder has not: x, y$"):
        check_tensors(wanted | {"x": (1,), "y": (1,)}, wanted, "m")
    with pytest.raises(ModelError, match=r"^m: a is \[3, 2\], must be \[2, 3\]$"):
        check_tensors(wanted | {"a": (3, 2)}, wanted, "m")
    check_tensors(dict(wanted), wanted, "m")


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path):
    # A process that may write only small files meets the same error as one on a full disk.
    script = (
        "import resource, afm_mlx, mlx.core as mx\n"
        "from pathlib import Path\n"
        "from afm_mlx.decoder.weights import write_weights\n"
        "from afm_mlx.errors import RunError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        f"    write_weights(Path({str(tmp_path)!r}), {{'a': mx.zeros((100, 100))}})\n"
        "except RunError as error:\n"
        "    assert 'could not be written whole (40,000 bytes)' in str(error)\n"
        "    assert error.hint.startswith('if the disk is full, ')\n"
        "    raise SystemExit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
