"""Starts programs that end together with this process, and ends whole process groups."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

# This program asks the kernel to end it together with its parent, and then replaces itself by the server. With a
# `preexec_fn` no second Python would start. But a `preexec_fn` runs code between fork and exec, which can deadlock in a
# process that has threads.
_EXEC_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], directory: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C does not reach it.

    On Linux the kernel kills the program when this process ends in any way.

    Args:
        command: the program (an absolute path) and its arguments.
        environment: all environment variables of the program.
        output: the file for the program's stdout and stderr.
        directory: the program's working directory; None means this process's own.

    Raises:
        OSError: if the program cannot be started.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _EXEC_WITH_PARENT, str(os.getpid()), *command]
    started: list[subprocess.Popen[bytes] | BaseException] = []
    ready = threading.Event()

    def start_and_wait() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the command comes from this package and its tests
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            started.append(error)
            ready.set()
            return
        started.append(process)
        ready.set()
        process.wait()

    # Linux sends the parent-death signal when the *thread* that started the child ends. That may happen long before
    # the process ends. So each child has a thread that lives exactly as long as the child.
    threading.Thread(target=start_and_wait, name="rebound-server-keeper", daemon=True).start()
    ready.wait()
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0]


def end_group(process: subprocess.Popen[bytes], first_signal: signal.Signals, deadline_s: float) -> None:
    """End a process group: send a signal to its leader, wait for the leader, and kill the remaining processes.

    The leader has `deadline_s` seconds to end. Then all living processes of the group get SIGKILL.
    """
    if process.poll() is None:
        process.send_signal(first_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(deadline_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
