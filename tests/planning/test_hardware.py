"""Macs by name, this machine by measurement, and names that nothing has."""

import pytest

from afm_mlx.errors import RecipeError
from afm_mlx.planning.hardware import (
    ASSUMED_UTILIZATION,
    CHIPS,
    GIB,
    find_hardware,
    matmul_flops,
)


def test_a_mac_is_found_by_chip_and_memory():
    mac = find_hardware("M4 Max 64GB")
    assert (mac.name, mac.usable_bytes, mac.compute_bytes) == ("m4-max-64", 48 * GIB, 2)
    assert mac.utilization == ASSUMED_UTILIZATION
    assert find_hardware("m2").name == "m2-8"
    assert find_hardware("m3-pro-18").usable_bytes == 12 * GIB
    assert find_hardware("m2", "float32").compute_bytes == 4


def test_chips_of_one_generation_are_ordered():
    for generation in range(1, 6):
        chips = [chip for name, chip in CHIPS.items() if name.startswith(f"m{generation}")]
        assert [chip.teraflops for chip in chips] == sorted(chip.teraflops for chip in chips)
        assert all(list(chip.memories) == sorted(set(chip.memories)) for chip in chips)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m6", "no hardware is called 'm6'"),
        ("", "no hardware is called ''"),
        ("m4-max-65", "the m4-max is not sold with 65 GB"),
    ],
)
def test_unknown_hardware_is_refused(name, message):
    with pytest.raises(RecipeError) as caught:
        find_hardware(name)
    assert str(caught.value) == message
    assert caught.value.hint


def test_this_machine_is_measured():
    assert matmul_flops("float32", 0.02) > 1e8
    assert find_hardware("this").flops_source == "matrix products, measured now"
