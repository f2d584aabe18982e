"""What runs around generated code inside the sandbox's process. It imports nothing of ours.

`sandbox.py` hands this file's text to a fresh Python, with what to do on stdin as JSON:

    folder      where the code may write
    limits      cpu_seconds, memory_bytes, file_bytes
    filter      seccomp program in hexadecimal, or empty
    readable    folders and files that may be read, for Landlock; null: do not use it
    layers      names of layers that must hold, or the code is not run
    pieces      [code, is it a test] in order; the first is the program
    report      descriptor of the file for results: one line of JSON for each piece
"""

from __future__ import annotations

import json
import os
import resource
import sys

TYPE_CHECKING = False  # the module typing would take longer to load than most programs run
if TYPE_CHECKING:
    from typing import Any

# linux/landlock.h and linux/prctl.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 1 << 0 | 1 << 2 | 1 << 3  # run, read a file, read a folder
# By version of Landlock: all that can be restricted of files. 2 adds moving between folders, 3
# truncating, 5 control of devices.
OF_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
# What the program's folder allows: no devices, sockets or pipes.
OF_FOLDER = READ | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
NO_NEW_RIGHTS, SET_SECCOMP, FILTER = 38, 22, 2
PATH_BENEATH, FILE_ONLY = 1, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15

# Events of Python's audit that generated code has no business with.
REFUSED = (
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethost",
    "socket.getnameinfo",
    "socket.send",
    "socket.sethostname",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "os.kill",
    "os.putenv",
    "os.chmod",
    "os.chown",
    "os.chflags",
    "os.setxattr",
    "os.utime",
    "pty.",
    "ctypes.",
    "syslog.",
    "signal.pthread_kill",
    "resource.setrlimit",
    "resource.prlimit",
    "webbrowser.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "telnetlib.",
    "imaplib.",
    "poplib.",
    "nntplib.",
    "sqlite3.enable_load_extension",
    "sqlite3.load_extension",
)
# Events with paths, all of which must lie in the program's folder.
OF_PATHS = {
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "shutil.rmtree": 1,
    "shutil.move": 2,
    "sqlite3.connect": 1,
}
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit(limits: dict[str, int]) -> None:
    """Set what the system counts; a limit that it does not know is left out."""
    for name, amount in (
        ("RLIMIT_CPU", limits["cpu_seconds"]),
        ("RLIMIT_AS", limits["memory_bytes"]),
        ("RLIMIT_DATA", limits["memory_bytes"]),
        ("RLIMIT_FSIZE", limits["file_bytes"]),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
    ):
        number = getattr(resource, name, None)
        if number is None:
            continue
        _, most = resource.getrlimit(number)
        amount = amount if most == resource.RLIM_INFINITY else min(amount, most)
        try:
            resource.setrlimit(number, (amount, amount))
        except (ValueError, OSError):  # macOS refuses some of memory; the parent watches that
            continue


def restrict_files(libc: Any, folder: str, readable: list[str]) -> bool:
    """Let Landlock allow writing below `folder` and reading below `readable`; is it in force?"""
    import ctypes
    import struct

    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = OF_FILES[max(known for known in OF_FILES if known <= version)]
    attributes = struct.pack("=Q", handled)
    if version >= 6:
        attributes += struct.pack("=QQ", 3, 3)  # no TCP; no signals or abstract sockets outwards
    elif version >= 4:
        attributes += struct.pack("=Q", 3)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    rules = [(folder, OF_FOLDER), ("/dev/null", READ | 1 << 1)]
    for path, allowed in [*rules, *((path, READ) for path in readable)]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed &= handled if os.path.isdir(path) else handled & FILE_ONLY
        rule = struct.pack("=Qi", allowed, place)
        if libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0) < 0:
            return False
        os.close(place)
    done = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def restrict_calls(libc: Any, program: bytes) -> bool:
    """Install the seccomp filter; is it in force?"""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    filter_ = Program(len(program) // 8, program)
    zero = ctypes.c_ulong(0)
    return libc.prctl(SET_SECCOMP, ctypes.c_ulong(FILTER), ctypes.byref(filter_), zero, zero) == 0


def restrict(job: dict[str, Any]) -> list[str]:
    """Names of the kernel's layers that are now in force."""
    held: list[str] = []
    if not sys.platform.startswith("linux"):
        return held
    try:
        import ctypes
    except ImportError:
        return held
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(NO_NEW_RIGHTS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return held
    if job["readable"] is not None and restrict_files(libc, job["folder"], job["readable"]):
        held.append("landlock")
    if job["filter"] and restrict_calls(libc, bytes.fromhex(job["filter"])):
        held.append("seccomp")
    return held


def watch(folder: str) -> None:
    """Refuse, inside Python, what the kernel should refuse anyway; errors are clearer this way."""
    realpath, fsdecode, join = os.path.realpath, os.fsdecode, os.path.join
    inside, null = join(folder, ""), "/dev/null"
    refused, of_paths, write_flags = REFUSED, OF_PATHS, WRITE_FLAGS

    def is_inside(path: Any) -> bool:
        if isinstance(path, int):  # an open file; opening it was judged
            return True
        path = fsdecode(path)
        if path == ":memory:":
            return True
        path = realpath(path)
        return path in (folder, null) or path.startswith(inside)

    def judge(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            writes = writes or (isinstance(flags, int) and bool(flags & write_flags))
            if writes and path is not None and not is_inside(path):
                raise PermissionError(f"the sandbox allows no writing to {path}")
        elif event in of_paths:
            for path in arguments[: of_paths[event]]:
                # A symbolic link's text is judged when it is followed, its place when it is made.
                if not (event == "os.symlink" and path is arguments[0]) and not is_inside(path):
                    raise PermissionError(f"the sandbox allows no changes to {path}")
        elif event.startswith(refused):
            raise PermissionError(f"the sandbox allows no {event}")

    sys.addaudithook(judge)


def main() -> int:
    """Do the job, and tell of each piece whether it ran to its end."""
    job = json.load(sys.stdin)
    report = job["report"]
    os.chdir(job["folder"])
    sys.setrecursionlimit(2_000)
    limit(job["limits"])
    held = restrict(job)
    write, dumps = os.write, json.dumps

    def tell(**line: Any) -> None:
        write(report, (dumps(line) + "\n").encode())

    tell(layers=held)
    if not set(job["layers"]) <= set(held):
        return 3
    for name in [name for name in sys.modules if "ctypes" in name]:
        del sys.modules[name]
    watch(job["folder"])
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    code = 0
    for number, (text, is_test) in enumerate(job["pieces"]):
        said = ""
        try:
            exec(compile(text, "program.py", "exec"), space)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"[:500]
            code = 1
        tell(piece=number, test=is_test, error=said)
        if said and number == 0:
            break
    tell(token=job["token"], code=code)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
