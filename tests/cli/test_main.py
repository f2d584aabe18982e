import errno
import os
import subprocess
import sys

import pytest

from afm_mlx.errors import ModelError

HEAVY = "mlx", "mlx_lm", "numpy", "pydantic", "transformers", "tokenizers", "huggingface_hub"


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def failing(afm, monkeypatch):
    """Function that runs a command which meets an error."""

    def run(error, *words):
        monkeypatch.setattr("afm_mlx.zoo.resolve_model", raising(error))
        return afm(*words, "generate", "any", "--prompt", "x")

    return run


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from afm_cli import main; code = main(['--help']); "
        f"print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "generate" in done.stdout


def test_without_a_command_there_is_help(afm):
    answer = afm()
    assert (answer.code, answer.err) == (0, "")
    assert "Usage: afm" in answer.out


def test_the_version_is_that_of_the_package(afm):
    assert afm("--version").out.startswith("afm-mlx 0.")


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["chta"], "no such command 'chta'", "try afm --help"),
        (["generate"], "missing argument 'MODEL'", "try afm generate --help"),
        (["generate", "x", "--promt", "y"], "no such option: --promt", "try afm generate --help"),
        (
            ["generate", "x", "--prompt", "y", "--max-tokens", "0"],
            "invalid value for '--max-tokens': ",
            "try afm generate --help",
        ),
    ],
)
def test_a_command_line_that_cannot_be_read_is_two_lines(afm, words, error, hint):
    answer = afm(*words)
    first, second = answer.err.splitlines()
    assert (answer.code, answer.out) == (2, "")
    assert first.lower().startswith(f"error: {error}".lower())
    assert second == f"hint: {hint}"


def test_a_mistake_of_the_user_is_said_with_a_hint(failing):
    answer = failing(ModelError("two things\nare wrong", hint="mend them"))
    assert answer.code == 2
    assert answer.err == "error: two things\nerror: are wrong\nhint: mend them\n"


def test_a_mistake_of_ours_is_one_line_without_a_traceback(failing):
    answer = failing(ZeroDivisionError("by zero"))
    assert answer.code == 1
    assert answer.err.splitlines() == [
        "internal error: ZeroDivisionError: by zero",
        "hint: run again with --debug for the traceback",
    ]


def test_debug_shows_the_traceback_and_keeps_the_exit_code(failing):
    answer = failing(ModelError("wrong"), "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert answer.err.endswith("error: wrong\n")


def test_debug_may_stand_anywhere(afm):
    answer = afm("generate", "no-such-model", "--debug", "--prompt", "x")
    assert "Traceback" in answer.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left", "big.bin"), "error: disk full: big.bin"),
        (RuntimeError("[write] Unable to write 5 bytes to file."), "error: disk full"),
        (PermissionError(errno.EACCES, "Denied", "/shut/x"), "error: permission denied: /shut/x"),
    ],
)
def test_what_is_wrong_with_the_disk_is_said(failing, error, said):
    answer = failing(error)
    assert (answer.code, answer.err.splitlines()[0]) == (2, said)


def test_another_error_of_the_system_is_ours(failing):
    assert failing(OSError(errno.EIO, "Input/output error")).code == 1


def test_an_interrupt_is_one_line(failing):
    answer = failing(KeyboardInterrupt())
    assert (answer.code, answer.err) == (130, "interrupted\n")


def test_a_reader_that_went_away_is_no_error():
    ends = os.pipe()
    os.close(ends[0])
    code = "import sys; from afm_cli import main; sys.exit(main(['--help']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=ends[1], stderr=subprocess.PIPE, text=True
    )
    os.close(ends[1])
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_that_does_not_fit_the_disk_is_said():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    code = "import sys; from afm_cli import main; sys.exit(main(['--version']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: disk full")
