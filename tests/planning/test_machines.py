"""Several machines: what each holds and sends, by hand, and which way is the fastest that fits."""

import json

import pytest

from afm_mlx.planning.cost import count_by_part
from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.machines import (
    LINKS,
    data_parallel_bytes,
    fully_sharded_bytes,
    plan_machines,
    tensor_parallel_bytes,
)
from afm_mlx.planning.machines_text import machines_lines
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.recipe import load_named_recipe

DEVICE = load_named_recipe("afm-on-device")
MAC = find_hardware("m4-max-128")
PARAMETERS = 2_737_739_264


def ways(stage, **options):
    """Ways of a stage of the on-device model, by name."""
    plan = plan_machines(DEVICE, MAC, 2, **options)
    return {way.name: way for each in plan.stages if each.stage == stage for way in each.ways}


def test_gradients_go_round_the_ring_once_to_add_up_and_once_to_tell():
    assert data_parallel_bytes(DEVICE.shape, 2) == 4 * PARAMETERS
    assert data_parallel_bytes(DEVICE.shape, 4) == 1.5 * 4 * PARAMETERS


def test_weights_are_gathered_and_gradients_summed_for_each_micro_batch():
    def sent(**changes):
        usual = {"compute_bytes": 2, "micro_batches": 1, "again": False, "ring": False}
        return fully_sharded_bytes(DEVICE.shape, 4, **usual | changes)

    assert sent() == 0.75 * (2 + 4) * PARAMETERS
    assert sent(again=True, ring=True, micro_batches=3) == 3 * 0.75 * (2 * 2 + 2 * 4) * PARAMETERS


def test_the_stream_is_summed_four_times_in_each_layer_and_five_times_with_recomputing():
    each = 1_000 * 3_072 * 2  # tokens, width, bytes
    sent = [
        tensor_parallel_bytes(DEVICE.shape, 2, tokens=1_000, compute_bytes=2, again=again)
        for again in (False, True)
    ]
    assert sent == [26 * 4 * each, 26 * 5 * each]


def test_a_message_takes_the_latency_of_its_hops_and_the_time_of_its_bytes():
    rdma, tcp, _ = LINKS
    assert rdma.seconds(0, 10, 4) == pytest.approx(10 * 31e-6)
    assert tcp.seconds(0, 10, 4) == pytest.approx(10 * 6 * 300e-6)
    assert tcp.seconds(2.5e9, 0, 4) == pytest.approx(1)


def test_one_machine_is_as_in_the_plan_without_others():
    whole = {each.stage: each for each in plan_recipe(DEVICE, MAC).stages}
    for stage in plan_machines(DEVICE, MAC, 2).stages:
        alone = stage.ways[0]
        assert alone.sent_bytes == alone.messages == 0
        if stage.stage != "core":  # whose teacher comes on top
            assert alone.peak_bytes == whole[stage.stage].peak_bytes
            assert alone.computing * whole[stage.stage].steps == pytest.approx(
                whole[stage.stage].seconds
            )


def test_each_way_holds_less_than_data_parallelism():
    found = ways("core")
    whole = found["data parallel"].peak_bytes
    saved = whole - found["fully sharded"].peak_bytes
    assert saved > 0.5 * 16 * PARAMETERS * 0.9  # half of weights, two averages and gradients
    assert found["tensor parallel"].peak_bytes < whole
    layers = count_by_part(DEVICE.shape)
    cut = layers["attention"] + layers["feed-forward"]
    assert whole - found["tensor parallel"].peak_bytes > 16 * cut / 2


def test_computing_is_shared_out_but_for_the_output_layer_of_tensor_parallelism():
    found = ways("core")
    alone = found["one machine"].computing
    assert found["data parallel"].computing == pytest.approx(alone / 2)
    assert alone / 2 < found["tensor parallel"].computing < 0.55 * alone


def test_the_fastest_way_that_fits_is_named_for_each_link():
    for stage in plan_machines(DEVICE, MAC, 2).stages:
        for link in LINKS:
            fitting = [way for way in stage.ways if way.fits]
            best = max(fitting, key=lambda way: way.tokens_per_second[link.name], default=None)
            assert stage.best[link.name] == (best.name if best else "")
    assert stage.stage == "context"
    assert stage.best[LINKS[0].name] == ""  # nothing fits


def test_the_hosts_carrier_decides_which_links_are_looked_at():
    assert [link.backend for link in plan_machines(DEVICE, MAC, 2, backend="jaccl-ring").links] == [
        "jaccl"
    ]
    assert {link.backend for link in plan_machines(DEVICE, MAC, 2, backend="ring").links} == {
        "ring"
    }


def test_a_model_that_does_not_divide_has_no_tensor_parallelism():
    plan = plan_machines(DEVICE, MAC, 3)
    assert plan.answering is None
    assert {stage.not_possible for stage in plan.stages} == {
        "8 key/value heads do not divide among 3 machines"
    }
    text = "\n".join(machines_lines(plan))
    assert "no tensor parallel: 8 key/value heads do not divide among 3 machines" in text
    assert "answers on 3 machines: the model cannot be cut so" in text


def test_answers_are_faster_where_messages_are_and_slower_where_not():
    answering = plan_machines(DEVICE, MAC, 2).answering
    rate = MAC.bandwidth * MAC.bandwidth_share
    assert answering.messages == 2 * 26 + 2
    assert answering.alone == pytest.approx(rate / (2 * PARAMETERS))
    rdma, tcp, _ = (answering.tokens_per_second[link.name] for link in LINKS)
    assert tcp < answering.alone < rdma


def test_the_command_shows_both_and_takes_a_file_of_hosts(afm_command, tmp_path):
    out = afm_command("plan", "afm-mac", "--hardware", "m4-max-64", "--hosts", "2")
    assert "on 2 machines, each as above" in out
    assert "best: data parallel" in out
    file = tmp_path / "hosts.json"
    hosts = [{"ssh": name, "ips": [f"10.0.0.{n}"]} for n, name in enumerate(("one", "two"), 1)]
    file.write_text(json.dumps({"backend": "ring", "hosts": hosts}))
    words = "plan", "afm-mac", "--hardware", "m4-max-64", "--hosts", file, "--json"
    found = json.loads(afm_command(*words))["machines"]
    assert found["machines"] == 2
    assert [link["backend"] for link in found["links"]] == ["ring", "ring"]


@pytest.fixture
def afm_command(capsys):
    """Function that runs a command, and returns its stdout."""
    from afm_cli import main

    def run(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run
