"""Run a command that ends with the process that asked for it: `python -m flows.guard LOCK COMMAND…`

The caller holds this program's standard input open and writes nothing to it; when that ends, the
caller is gone, however it was killed, and so is the command with all its children soon after. While
any of them lives, the file LOCK is held: the next run waits for it instead of meeting an orphan.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from filelock import FileLock, Timeout

GRACE = 20.0  # seconds that the command has to end by itself


def main(lock: str, *command: str) -> int:
    """The command's exit code; 75 where another one holds the lock for longer than it may."""
    try:
        with FileLock(lock, timeout=2 * GRACE):
            return _run(command)
    except Timeout:
        print(f"guard: {lock}: another run's command is still at work; wait for its end")
        return os.EX_TEMPFAIL


def _run(command: tuple[str, ...]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    over = threading.Lock()

    def end(*_: int | FrameType | None) -> None:
        if not over.acquire(blocking=False):
            return
        _signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while _signal(process.pid, 0) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.1)
        _signal(process.pid, signal.SIGKILL)

    def end_with_caller() -> None:
        while os.read(sys.stdin.fileno(), 1):  # no buffer, whose lock would be held at exit
            pass
        end()

    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end).start())
    waiting = threading.Thread(target=end_with_caller, daemon=True)
    waiting.start()
    code = process.wait()
    if not over.acquire(blocking=False):  # on its way out: until the last child is gone
        while _signal(process.pid, 0):
            time.sleep(0.1)
    return code if code >= 0 else 128 - code


def _signal(group: int, number: int) -> bool:
    """Whether anybody was there to get it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
