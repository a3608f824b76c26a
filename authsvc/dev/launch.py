"""Owns a script that executes a program as another user and makes it end with its parent.

`authsvc.dev.process` runs it as `launch.py PARENT UID GID PROGRAM …`. It is a script of its own
because doing this between fork and exec of a process with threads (`preexec_fn`) can deadlock. UID
and GID are -1 to keep the user.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _drop_to(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _end_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    if os.getppid() != parent:
        sys.exit("the parent process has already ended")


def main() -> None:
    """Execute the program in the arguments."""
    parent, uid, gid = (int(word) for word in sys.argv[1:4])
    program = sys.argv[4:]
    os.umask(0o077)
    if uid != -1:
        _drop_to(uid, gid)
    # A change of user clears the parent-death signal (prctl(2)), so it is set afterwards.
    _end_with(parent)
    os.execv(program[0], program)  # noqa: S606 -- no shell needed


if __name__ == "__main__":
    main()
