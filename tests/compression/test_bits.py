import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from afm_mlx.compression.bits import allocate, average_bits, bits_svg, bits_table, shares
from afm_mlx.errors import RecipeError

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def named(layers: int) -> list[str]:
    return [f"model.layers.{layer}.mlp.{kind}" for layer in range(layers) for kind in KINDS]


def drawn(seed: int, names: list[str]) -> tuple[dict[str, dict[int, float]], dict[str, int]]:
    """Damages that fall with bits, and sizes."""
    draw = np.random.default_rng(seed)
    damages = {
        name: dict(zip((2, 4, 8), sorted(draw.random(3), reverse=True), strict=True))
        for name in names
    }
    return damages, {name: int(draw.integers(1, 9)) * 64 for name in names}


@pytest.mark.parametrize("seed", range(30))
def test_no_other_choice_of_the_same_average_does_less_damage(seed):
    names = [f"m{i}" for i in range(6)]
    damages, sizes = drawn(seed, names)
    target = np.random.default_rng(seed + 1000).uniform(2, 8)
    choice = allocate(damages, sizes, target)
    all_choices = (
        dict(zip(names, widths, strict=True)) for widths in itertools.product((2, 4, 8), repeat=6)
    )
    least = min(
        sum(damages[name][width] for name, width in each.items())
        for each in all_choices
        if average_bits(each, sizes) <= target
    )
    assert choice.damage == pytest.approx(least)
    assert choice.bits_per_weight == pytest.approx(average_bits(choice.bits, sizes))
    assert choice.bits_per_weight <= target


def test_a_target_of_four_bits_leaves_all_at_four_where_eight_help_nobody():
    names = named(3)
    damages = {name: {2: 1.0, 4: 0.1, 8: 0.1} for name in names}
    choice = allocate(damages, dict.fromkeys(names, 100), 4.0)
    assert set(choice.bits.values()) == {4}


def test_a_matrix_that_suffers_most_keeps_its_bits():
    damages = {name: {2: 0.01, 4: 0.001} for name in "abc"} | {"d": {2: 9.0, 4: 0.1}}
    assert allocate(damages, dict.fromkeys("abcd", 64), 2.5).bits == dict.fromkeys("abc", 2) | {
        "d": 4
    }


def test_the_embedding_counts_when_it_is_told_to():
    damages, sizes = drawn(0, named(2))
    sizes["model.embed_tokens"] = sum(sizes.values())
    choice = allocate(damages, sizes, 6.0, fixed={"model.embed_tokens": 8})
    assert choice.bits["model.embed_tokens"] == 8
    without = {name: width for name, width in choice.bits.items() if "layers" in name}
    assert average_bits(without, sizes) <= 4.0
    assert choice.bits_per_weight <= 6.0


@pytest.mark.parametrize(("target", "nearest"), [(1.9, "2"), (5.0, "4")])
def test_a_target_out_of_reach_is_refused_with_the_nearest_one(target, nearest):
    damages = {name: {2: 1.0, 4: 0.5} for name in "ab"}
    with pytest.raises(RecipeError, match=rf"{target:g} bits per weight .* take 2 to 4") as caught:
        allocate(damages, {"a": 3, "b": 5}, target)
    assert caught.value.hint.endswith(f"target_bits_per_weight={nearest}")


def test_the_nearest_target_that_is_named_can_be_reached():
    damages = {name: {2: 1.0, 4: 0.5} for name in "ab"}
    sizes, ends = {"a": 3, "b": 5, "e": 7}, {"e": 8}
    with pytest.raises(RecipeError, match="with e at 8") as caught:
        allocate(damages, sizes, 3.0, fixed=ends)
    nearest = float(caught.value.hint.partition("=")[2])
    assert allocate(damages, sizes, nearest, fixed=ends).bits == {"a": 2, "b": 2, "e": 8}
    with pytest.raises(RecipeError):
        allocate(damages, sizes, nearest - 2e-4, fixed=ends)


def test_a_model_of_392_matrices_stays_within_its_target_of_uneven_sizes():
    names = named(56)
    damages, sizes = drawn(1, names)
    sizes = {name: size * 7919 + number for number, (name, size) in enumerate(sizes.items())}
    choice = allocate(damages, sizes, 3.7)
    assert 3.69 < choice.bits_per_weight <= 3.7


def test_where_all_may_have_the_most_bits_they_have_them_whatever_their_sizes():
    names = named(56)
    damages, sizes = drawn(1, names)
    sizes = {name: size * 7919 + number for number, (name, size) in enumerate(sizes.items())}
    choice = allocate(damages, sizes, 8.0)
    assert set(choice.bits.values()) == {8}
    assert choice.bits_per_weight == 8


def test_the_table_has_a_digit_for_each_matrix_and_fits_a_terminal():
    names = named(70)
    bits = {name: (2, 4, 8)[number % 3] for number, name in enumerate(names)}
    lines = bits_table(bits | {"model.embed_tokens": 8}).splitlines()
    assert max(map(len, lines)) <= 80
    digits = "".join(line.split()[-1] for line in lines if "_proj" in line)
    assert len(digits) == len(names)
    assert lines[-1].split() == ["embed_tokens", "8"]
    q_line = next(line for line in lines if "q_proj" in line)
    assert q_line.split()[-1][3] == str(bits["model.layers.3.mlp.q_proj"])


def test_the_picture_shows_each_matrix_with_its_digit():
    names = named(5)
    bits = {name: (2, 4)[number % 2] for number, name in enumerate(names)}
    bits["model.embed_tokens"] = 8
    root = ET.fromstring(bits_svg(bits, dict.fromkeys(bits, 10), "3.5 bits & more"))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "3.5 bits & more"
    legend = 3  # one cell each
    assert sum(text in ("2", "4", "8") for text in texts) == len(bits) + legend
    assert "embed_tokens" in texts


def test_shares_sum_to_one():
    found = shares({"a": 4, "b": 2, "c": 4}, {"a": 1, "b": 2, "c": 1})
    assert found == {2: 0.5, 4: 0.5}
