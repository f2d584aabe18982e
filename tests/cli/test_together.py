import pytest
import typer
from afm_cli import app
from afm_cli.together import without_hosts

TAKE_HOSTS = {
    *("run", "pretrain", "sft", "reward", "prefer", "rl", "adapt", "prune", "distill", "recover")
}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("run tiny --hosts local:2 --json", "run tiny --json"),
        ("run tiny --hosts=hosts.json", "run tiny"),
        ("--debug run --hosts h.json tiny --hosts local:2", "--debug run tiny"),
        ("run --set a.b=--hosts tiny", "run --set a.b=--hosts tiny"),
    ],
)
def test_ranks_get_the_command_line_without_hosts(words, kept):
    assert without_hosts(words.split()) == kept.split()


def test_every_command_that_can_share_its_work_takes_hosts():
    commands = typer.main.get_command(app).commands
    assert {
        name
        for name, command in commands.items()
        if any("--hosts" in param.opts for param in command.params)
    } >= TAKE_HOSTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "afm-tiny", "--hosts", "none.json"), "cannot read hosts from 'none.json'"),
        (("run", "afm-tiny", "--hosts", "local:0"), "must be 1 to"),
        (("sft", "x", "--data", "x", "--out", "y", "--hosts", "local:two"), "must be 1 to"),
        (("quantize", "x", "--out", "y", "--hosts", "local:2"), "no such option: --hosts"),
    ],
)
def test_hosts_that_cannot_be_end_with_two_lines_and_code_2(words, message, afm):
    answer = afm(*words)
    assert answer.code == 2
    assert message in answer.err.lower()
    assert len(answer.err.splitlines()) == 2
    assert answer.out == ""


def test_rank_that_cannot_be_told_is_refused_before_anything_is_written(afm, tmp_path):
    (tmp_path / "hosts.json").write_text('{"hosts": [{"ssh": "a"}]}')
    answer = afm("run", "afm-tiny", "--hosts", "hosts.json")
    assert answer.code == 2
    assert "host 1 has no 'ips'" in answer.err
    assert not (tmp_path / "runs").exists()
