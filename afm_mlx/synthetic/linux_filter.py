"""The seccomp filter of the sandbox on Linux: which system calls are refused, as a BPF program.

Everything is allowed but what is listed here, and what is newer than this list. Refused: starting
processes and threads, sockets, signals and tracing, changes of files' owners and modes, more
rights or limits, and the side doors to these (io_uring, bpf, keys, namespaces, memory files).

Source: Linux's syscall tables for x86-64 and arm64; seccomp(2).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

# Number of each refused call: on x86-64, on arm64; -1 where that machine has none.
_REFUSED = {
    "fork": (57, -1), "vfork": (58, -1), "clone": (56, 220),
    "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "socket": (41, 198), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "pivot_root": (155, 41), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "personality": (135, 92), "modify_ldt": (154, -1), "iopl": (172, -1), "ioperm": (173, -1),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "setrlimit": (160, 164), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159),
    "capset": (126, 91),
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
    "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "truncate": (76, 45),
    "mknod": (133, -1), "mknodat": (259, 33), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "fanotify_init": (300, 262), "inotify_init": (253, -1),
    "inotify_init1": (294, 26), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "syslog": (103, 116), "vhangup": (153, 58),
}  # fmt: skip

# Where Landlock is missing nothing may be written at all: also these, and opening to write.
_WRITING = {
    "creat": (85, -1), "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1),
    "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1),
    "symlinkat": (266, 36), "openat2": (437, 437),
}  # fmt: skip

# Answered with "no such call", on which the C library falls back to an older one.
_MISSING = {"clone3": (435, 435)}

_OPEN, _OPENAT, _PRLIMIT = (2, -1), (257, 56), (302, 261)
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC: the same on both machines.
_WRITE_FLAGS = 0o1 | 0o2 | 0o100 | 0o1000
# Newest call that this list was made with: 6.13's removexattrat. Later ones do not exist here.
_NEWEST = 466
_X32 = 0x40000000

# linux/audit.h: AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# linux/bpf_common.h: load a word, jump if equal / greater / any bit set, return.
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# linux/seccomp.h: what to return; and places in struct seccomp_data (little-endian).
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


@dataclass(frozen=True)
class _Step:
    code: int
    value: int
    yes: int = 0  # steps to skip
    no: int = 0


def seccomp_program(machine: str, *, may_write: bool) -> bytes:
    """The filter as an array of `struct sock_filter`; empty for a machine that we do not know.

    Args:
        machine: as `platform.machine()` says, `x86_64` or `aarch64`.
        may_write: files may be opened to write: something else guards where.
    """
    if machine not in _ARCHITECTURES:
        return b""
    column, architecture = _ARCHITECTURES[machine]
    refuse = _Step(_RETURN, _ERROR | errno.EPERM)
    steps = [
        _Step(_LOAD, _ARCHITECTURE_AT),
        _Step(_EQUAL, architecture, yes=1),
        _Step(_RETURN, _KILL),
        _Step(_LOAD, _NUMBER_AT),
        _Step(_ABOVE, _NEWEST, no=1),  # x32's calls are among these
        _Step(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for number in (numbers[column] for numbers in _MISSING.values()):
        steps += [_Step(_EQUAL, number, no=1), _Step(_RETURN, _ERROR | errno.ENOSYS)]
    refused = _REFUSED if may_write else _REFUSED | _WRITING
    for numbers in refused.values():
        if numbers[column] >= 0:
            steps += [_Step(_EQUAL, numbers[column], no=1), refuse]
    if not may_write:
        for numbers, flags_at in ((_OPEN, 1), (_OPENAT, 2)):
            if numbers[column] >= 0:
                steps += [
                    _Step(_EQUAL, numbers[column], no=3),
                    _Step(_LOAD, _ARGUMENTS_AT + 8 * flags_at),
                    _Step(_ANY_BIT, _WRITE_FLAGS, no=1),
                    refuse,
                    _Step(_LOAD, _NUMBER_AT),
                ]
    # Limits may be asked for, but not set: the third argument is a pointer, in two halves.
    steps += [_Step(_EQUAL, _PRLIMIT[column], no=4)]
    steps += [_Step(_LOAD, _ARGUMENTS_AT + 16), _Step(_EQUAL, 0, no=3)]
    steps += [_Step(_LOAD, _ARGUMENTS_AT + 20), _Step(_EQUAL, 0, no=1)]
    steps += [_Step(_RETURN, _ALLOW), refuse]
    # The jump of "no prlimit" above ends at the second last step, which allows.
    return b"".join(struct.pack("<HBBI", s.code, s.yes, s.no, s.value) for s in steps)
