"""Programs that try to get out. Each is run with all layers, and again without the audit hook."""

import os
import socket
import sys
import time

import pytest

from afm_mlx.errors import RunError
from afm_mlx.settings.synthetic import Sandbox
from afm_mlx.synthetic import sandbox
from afm_mlx.synthetic.sandbox import layers, run_program, run_tests

LIMITS = Sandbox(cpu_seconds=1, wall_seconds=4.0, memory_bytes=2**27)

if not layers():
    pytest.skip("this machine has no layer that can hold code", allow_module_level=True)


@pytest.fixture(params=["all layers", "kernel alone"])
def run(request, monkeypatch):
    """Function that runs a program; the second time without Python's audit hook."""
    if request.param == "kernel alone":
        text = sandbox._guard_text()
        assert text.count('    watch(job["folder"])\n') == 1
        bare = text.replace('    watch(job["folder"])\n', "")
        monkeypatch.setattr(sandbox, "_guard_text", lambda: bare)
    return lambda code, limits=LIMITS: run_program(code, limits)


@pytest.fixture
def target(tmp_path):
    """A file outside, which must stay as it is."""
    path = tmp_path / "kept.txt"
    path.write_text("kept")
    yield path
    assert path.read_text() == "kept"
    assert sorted(path.parent.iterdir()) == [path]


def test_a_program_runs_and_its_output_comes_back(run):
    done = run("import math, json\nprint(json.dumps(math.comb(5, 2)))")
    assert (done.ended, done.stdout, done.failed) == ("done", "10\n", ())


def test_files_in_its_folder_can_be_written_and_are_gone_after(run):
    if layers() == ("seccomp",):
        pytest.skip("without Landlock nothing can be written")
    done = run(
        "import os\nos.mkdir('a')\nopen('a/b.txt', 'w').write('x')\n"
        "print(open('a/b.txt').read(), os.getcwd())"
    )
    value, folder = done.stdout.split()
    assert value == "x"
    assert not os.path.exists(folder)


def test_the_network_cannot_be_reached(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for code in (
            f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
            f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)",
            f"import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"s.sendto(b'x', ('127.0.0.1', {port}))",
        ):
            done = run(code)
            assert done.ended == "error", code
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_program_can_be_started(run, target):
    for code in (
        f"import subprocess\nsubprocess.run(['touch', {str(target) + '2'!r}], check=True)",
        f"import os\nassert os.system('touch {target}2') == 0",
        f"import os\nos.execv('/usr/bin/touch', ['touch', {str(target) + '2'!r}])",
        f"import os\nos.posix_spawn('/usr/bin/touch', ['touch', {str(target) + '2'!r}], {{}})",
        "import os\nos.popen('curl http://127.0.0.1').read()\nraise OSError",
        "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    ):
        assert run(code).ended in ("error", "died"), code


def test_it_cannot_fork(run):
    bomb = "import os\nwhile True:\n    os.fork()"
    began = time.perf_counter()
    assert run(bomb).ended == "error"
    assert time.perf_counter() - began < LIMITS.wall_seconds
    left = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)"
    assert run(left).ended == "error"


def test_ctypes_is_no_way_around(run, target):
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert libc.fork() < 0\nassert libc.socket(2, 1, 0) < 0\n"
        f"assert libc.open({os.fsencode(target)!r}, 1) < 0\n"
        f"assert libc.truncate({os.fsencode(target)!r}, 0) < 0\n"
        f"assert libc.unlink({os.fsencode(target)!r}) < 0\n"
        f"assert libc.chmod({os.fsencode(target)!r}, 0) < 0\n"
        "assert libc.kill(1, 0) < 0\nprint('held')"
    )
    done = run(code)
    # With the hook, ctypes itself is refused; without it, the kernel refuses each of these.
    assert done.stdout == "held\n" or "the sandbox allows no ctypes" in done.failed[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="numbers of Linux on x86-64")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of Linux on x86-64")
def test_raw_system_calls_are_refused(monkeypatch):
    bare = sandbox._guard_text().replace('    watch(job["folder"])\n', "")
    monkeypatch.setattr(sandbox, "_guard_text", lambda: bare)
    numbers = {
        "clone": 56, "clone3": 435, "vfork": 58, "execve": 59, "socket": 41, "io_uring": 425,
        "memfd": 319, "ptrace": 101, "prlimit": 302, "x32 fork": 0x40000000 + 57, "future": 900,
    }  # fmt: skip
    lines = [
        f"assert libc.syscall({number}, 0, 0, 1, 0, 0, 0) == -1 and ctypes.get_errno() in (1, 38), "
        f"{name!r}"
        for name, number in numbers.items()
    ]
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n" + "\n".join(lines)
    assert run_program(code, LIMITS).failed == ()


def test_nothing_outside_its_folder_can_be_written(run, target):
    for code in (
        f"open({str(target)!r}, 'w').write('x')",
        f"open({str(target)!r}, 'a').write('x')",
        f"open({str(target.parent / 'new')!r}, 'w')",
        f"import os\nos.remove({str(target)!r})",
        f"import os\nos.rename({str(target)!r}, 'mine')",
        f"import os\nos.mkdir({str(target.parent / 'new')!r})",
        f"import os\nos.truncate({str(target)!r}, 0)",
        f"import os\nos.chmod({str(target)!r}, 0)",
        f"import os\nos.symlink({str(target)!r}, 'link')\nopen('link', 'w').write('x')",
        f"import os\nos.symlink({str(target.parent)!r}, 'd')\nopen('d/new', 'w').write('x')",
        f"import os\nos.link({str(target)!r}, 'hard')\nopen('hard', 'w').write('x')",
        f"import shutil\nshutil.rmtree({str(target.parent)!r})",
        "open('../outside.txt', 'w')",
        f"import sqlite3\nc = sqlite3.connect({str(target.parent / 'x.db')!r})\n"
        "c.execute('create table t(a)')",
    ):
        assert run(code).ended == "error", code


@pytest.mark.skipif(layers() == ("seccomp",), reason="only Landlock and macOS guard reading")
def test_files_of_the_user_cannot_be_read(run, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    if sys.platform == "darwin" and not str(tmp_path).startswith(os.path.expanduser("~")):
        pytest.skip("on macOS only the home folder is closed")
    assert run(f"print(open({str(secret)!r}).read())").ended == "error"


def test_an_endless_loop_ends(run):
    began = time.perf_counter()
    short = Sandbox(wall_seconds=0.5)
    assert run("import time\ntime.sleep(60)", short).ended == "time"
    catches = "while True:\n try:\n  while True:\n   pass\n except BaseException:\n  pass"
    assert run(catches, short).ended == "time"
    assert time.perf_counter() - began < 20 * short.wall_seconds


def test_processor_time_is_limited():
    done = run_program("while True:\n    pass", Sandbox(cpu_seconds=1, wall_seconds=30.0))
    assert done.ended == "time"
    assert done.seconds < 20


def test_limits_cannot_be_raised(run):
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"
    )
    assert run(code).ended == "error"


def test_memory_is_limited(run):
    assert run("x = bytearray(2**33)").ended == "memory"
    assert run("x = []\nwhile True:\n    x.append(bytearray(2**20))").ended == "memory"


def test_output_and_files_are_limited(run):
    small = Sandbox(file_bytes=2**16, folder_bytes=2**18, wall_seconds=6.0)
    done = run("while True:\n    print('x' * 1000)", small)
    assert done.ended in ("error", "died")
    assert len(done.stdout) <= 20_000
    assert run("open('big', 'wb').write(bytes(2**20))", small).ended != "done"
    many = "i = 0\nwhile True:\n    open(f'{i}', 'wb').write(bytes(2**15))\n    i += 1"
    assert run(many, small).ended != "done"


def test_the_environment_is_clean(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    done = run("import os, sys\nprint(sorted(os.environ), sys.stdin.read(), len(os.listdir('.')))")
    assert "SECRET" not in done.stdout
    assert "'PATH'" in done.stdout


def test_leaving_early_is_not_passing():
    for code in ("import os\nos._exit(0)", "raise SystemExit(0)", "import sys\nsys.exit()"):
        done = run_tests(code, [("assert True", True)], LIMITS)
        assert (done.ended != "done", done.passed) == (True, 0), code


def test_each_test_counts_by_itself():
    tests = [("assert f(1) == 1", True), ("assert f(2) == 1", True), ("x = 3", False),
             ("assert f(x) == 3", True)]  # fmt: skip
    done = run_tests("def f(n):\n    return n", tests, LIMITS)
    assert (done.ended, done.passed, len(done.failed)) == ("error", 2, 1)


def test_tests_after_an_endless_one_do_not_count():
    tests = [("assert f(1)", True), ("while True: pass", True), ("assert f(1)", True)]
    done = run_tests("def f(n):\n    return n", tests, Sandbox(wall_seconds=1.5))
    assert (done.ended, done.passed) == ("time", 1)


def test_resident_memory_is_read_from_ps():
    pytest.importorskip("resource")
    try:
        size = sandbox.resident_bytes(os.getpid())
    except FileNotFoundError:
        pytest.skip("no ps here")
    assert 2**22 < size < 2**36


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock is Linux's")
def test_without_landlock_nothing_can_be_written_at_all(monkeypatch, target):
    text = sandbox._guard_text().replace('    watch(job["folder"])\n', "")
    monkeypatch.setattr(sandbox, "_guard_text", lambda: text)
    monkeypatch.setattr(sandbox, "layers", lambda: ("seccomp",))
    assert run_program("print(open(__import__('os').__file__).read(9))", LIMITS).ended == "done"
    for code in (
        "open('mine', 'w')",
        f"open({str(target)!r}, 'r+')",
        f"import os\nos.open({str(target)!r}, os.O_RDONLY | os.O_TRUNC)",
        "import os\nos.mkdir('d')",
        f"import os\nos.unlink({str(target)!r})",
        f"import os\nos.rename({str(target)!r}, 'mine')",
        f"import os\nos.link({str(target)!r}, 'mine')",
    ):
        assert run_program(code, LIMITS).ended == "error", code


def test_a_machine_without_layers_runs_nothing(monkeypatch):
    monkeypatch.setattr(sandbox, "layers", lambda: ())
    with pytest.raises(RunError, match="generated code cannot be held on this machine"):
        run_program("print(1)", LIMITS)


def test_the_profile_of_macos_names_folder_and_denies_the_rest(tmp_path):
    profile = sandbox._macos_profile(tmp_path)
    assert profile.count("(") == profile.count(")")
    for rule in ("(deny network*)", "(deny process-fork)", "(deny file-write*)"):
        assert rule in profile
    assert f'(allow file-write* (subpath "{tmp_path}"))' in profile
