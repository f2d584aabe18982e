import json
import os
import signal
import subprocess
import sys
import time

import pytest

from afm_mlx.errors import DataError
from afm_mlx.settings.synthetic import SynthInstructions, SynthMath, SynthSafety, SynthTools
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.checks import final_number, passes
from afm_mlx.synthetic.write import Sampling, write_records
from afm_mlx.text.chat import plain_messages


@pytest.fixture
def write(tmp_path):
    """Function that writes records of a kind, and reads them."""

    def run(
        out="out.jsonl", *, name="math", settings=None, count=40, seed=3, split="train", **rest
    ):
        section, make = KINDS[name]
        settings = settings or section()
        counts = write_records(
            make(settings), settings, tmp_path / out, count=count, seed=seed, split=split, **rest
        )
        lines = (tmp_path / out).read_text().splitlines()
        return [json.loads(line) for line in lines], counts

    return run


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(write, tmp_path):
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        write(out, seed=seed)
    one, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == same != other


def test_more_records_begin_with_the_fewer(write, tmp_path):
    write("few", count=20)
    write("more", count=60)
    assert (tmp_path / "more").read_bytes().startswith((tmp_path / "few").read_bytes())


def test_records_are_conversations_whose_answer_passes(write):
    for name in ("basics", "math", "tools", "instructions", "safety"):
        records, counts = write(f"{name}.jsonl", name=name)
        assert counts["kept"] == len(records) == 40
        assert sum(counts["families"].values()) == 40
        for record in records:
            *prompt, answer = record["messages"]
            assert answer["role"] == "assistant"
            assert prompt[-1]["role"] in ("user", "tool")
            assert passes(record["check"], answer["content"], answer.get("tool_calls", ()))
        assert len({record["id"] for record in records}) == 40


def test_no_two_prompts_are_equal_and_few_are_alike(write):
    records, counts = write(name="safety", settings=SynthSafety(), count=500)
    prompts = [json.dumps(record["messages"][:-1]) for record in records]
    assert len(set(prompts)) == 500
    assert counts["dropped"]["equal prompt"] > 0
    _, strict = write("t", name="tools", settings=SynthTools(duplicate_similarity=0.5), count=300)
    _, loose = write("u", name="tools", settings=SynthTools(duplicate_similarity=1.0), count=300)
    assert strict["dropped"]["near-duplicate"] > 3
    assert "near-duplicate" not in loose["dropped"]


def test_splits_share_no_family(write):
    train, _ = write("a", count=150)
    held_out, _ = write("b", count=60, split="held_out")
    families = [{record["id"].split("/")[1] for record in part} for part in (train, held_out)]
    assert not families[0] & families[1]
    with pytest.raises(DataError, match="no family of math is held_out"):
        write("c", split="held_out", settings=SynthMath(held_out_fraction=0.0))


def test_records_that_a_benchmark_holds_are_dropped(write, tmp_path):
    records, _ = write("first", count=30)
    benchmark = tmp_path / "bench.jsonl"
    stolen = [record["messages"][0]["content"] for record in records[:7]]
    benchmark.write_text("".join(json.dumps({"question": text}) + "\n" for text in stolen))
    clean, counts = write("second", count=30, against=[benchmark])
    prompts = {record["messages"][0]["content"] for record in clean}
    assert not prompts & set(stolen)
    assert counts["dropped"]["in a benchmark"] >= 7


def test_a_kind_that_is_exhausted_says_how_many_there_are(write):
    settings = SynthSafety(give_up_after=300)
    with pytest.raises(DataError, match=r"safety: [\d,]+ of 100,000 records") as caught:
        write(name="safety", settings=settings, count=100_000)
    count = int(caught.value.hint.split()[1])
    records, _ = write(name="safety", settings=settings, count=count)
    assert len(records) == count


KILLED = """
import sys
from pathlib import Path
from afm_mlx.synthetic import write
from afm_mlx.synthetic.catalogue import KINDS
write.SECONDS_BETWEEN_STATES = 0.02
section, make = KINDS["math"]
write.write_records(make(section()), section(), Path(sys.argv[1]), count=600, seed=3, split="train")
"""


def test_a_killed_run_goes_on_to_the_same_bytes(write, tmp_path):
    out = tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    process = subprocess.Popen([sys.executable, "-c", KILLED, out])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if part.exists() and part.stat().st_size > 30_000:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with part.open("ab") as file:
        file.write(b'{"messages": [{"role": "us')  # torn by a crash
    _, counts = write(count=600)
    _, unbroken = write("unbroken", count=600)
    assert out.read_bytes() == (tmp_path / "unbroken").read_bytes()
    assert {**counts, "seconds": 0} == {**unbroken, "seconds": 0}
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        "out.jsonl",
        "out.jsonl.card.json",
    ]


def test_other_settings_do_not_go_on_with_a_part(write, tmp_path):
    with pytest.raises(DataError):
        write(name="safety", settings=SynthSafety(give_up_after=1), count=2_000)
    with pytest.raises(DataError, match=r"was begun with other settings: seed, settings$"):
        write(name="safety", settings=SynthSafety(), seed=9)
    write("done")
    with pytest.raises(DataError, match="is there already"):
        write("done")


def test_a_broken_state_is_said(write, tmp_path):
    (tmp_path / "out.jsonl.part").write_text("")
    (tmp_path / "out.jsonl.state.json").write_text("{")
    with pytest.raises(DataError, match="is broken"):
        write()


def test_of_a_models_answers_the_right_ones_are_kept(write):
    asked = []

    def answerer(messages, tools, seed):
        # Right where the seed is even; the problem is known from the generator's own record.
        asked.append(seed)
        right = truth[messages[0]["content"]]
        return f"Let me see. #### {right if seed % 2 == 0 else right + 1}" if seed % 3 else None

    settings = SynthMath(answers_kept=2)
    reference, _ = write("own", count=400, settings=settings)
    truth = {
        record["messages"][0]["content"]: final_number(record["messages"][-1]["content"])
        for record in reference
    }
    sampling = Sampling(answerer, samples=3, name="even")
    records, counts = write("sampled", count=40, settings=settings, sampling=sampling)
    assert counts["prompts_passed"] == counts["kept"] == 40
    assert counts["dropped"]["no answer passed"] > 0
    assert counts["dropped"]["prompt too long for the model"] > 0
    assert 0.3 < counts["answers_passed"] / counts["answers"] < 0.7
    assert len(set(asked)) == len(asked)
    for record in records:
        assert record["messages"][-1]["content"].startswith("Let me see.")
        assert passes(record["check"], record["messages"][-1]["content"])


def test_a_models_tool_calls_become_calls(write):
    def answerer(messages, tools, seed):
        call = '{"name": "get_balance", "arguments": {"account": "savings"}}'
        return f"Yes. <tool_call>{call}</tool_call>"

    settings = SynthTools(no_call_fraction=0.0, parallel_fraction=0.0, steps_fraction=0.0)
    sampling = Sampling(answerer, samples=1, name="one call")
    records, _ = write(name="tools", settings=settings, count=1, sampling=sampling)
    (record,) = records
    assert record["messages"][-1] == {
        "role": "assistant",
        "content": "Yes.",
        "tool_calls": [{"name": "get_balance", "arguments": {"account": "savings"}}],
    }


def test_a_prompt_with_tools_becomes_plain_messages(write):
    settings = SynthTools(steps_fraction=1.0, no_call_fraction=0.0, parallel_fraction=0.0)
    records, _ = write(name="tools", settings=settings, count=20)
    for record in records:
        plain = plain_messages(record["messages"][:-1], record["tools"])
        assert plain[0]["role"] == "system"
        for tool in record["tools"]:
            assert json.dumps(tool["function"]) in plain[0]["content"]
        assert all(set(message) == {"role", "content"} for message in plain)
        called = any("tool_calls" in message for message in record["messages"][:-1])
        assert called == any("<tool_call>{" in message["content"] for message in plain[1:])


def test_settings_are_part_of_the_card(write, tmp_path):
    write(name="instructions", settings=SynthInstructions(most_constraints=2))
    card = json.loads((tmp_path / "out.jsonl.card.json").read_text())
    assert card["settings"]["most_constraints"] == 2
    assert (card["seed"], card["kept"], card["split"]) == (3, 40, "train")
