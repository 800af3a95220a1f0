"""Runs a Python script in a process of its own, forked from one that has imported torch already.

Importing it anew takes most of the time of a small run, and the tests make hundreds of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = "torch torch.utils.data torchvision.utils PIL.ImageOps tqdm filelock runpy tempfile"
LIBRARIES += " matplotlib.figure matplotlib.backends.backend_agg torch_fidelity timm"


def obey_permissions() -> None:
    """Before a program starts: give up root's rights to pass over them (Linux's capabilities 1
    and 2, CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH).
    """
    version = 0x20080522  # of capget()'s structures: the third, two words for each set
    header, data = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    assert libc.capget(header, data) == 0
    for i in (0, 1):  # those in effect, and those that it may take back, at which access() looks
        data[i] &= ~0b110
    assert libc.capset(header, data) == 0


def script(
    command: list[str],
    cwd: str,
    env: dict[str, str],
    out: str,
    err: str,
    before: Callable[[], Any] | None,
) -> None:
    """What `python command...` does, in a new process and with output into two pipes."""
    if before:
        before()
    for number, path in (1, out), (2, err):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors=sys.stdout.errors, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may be another one
    os.chdir(cwd)
    libraries = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [str(Path(command[0]).parent), *libraries]
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def run(
    command: Sequence[object], cwd: object = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python command...` as subprocess.run(capture_output=True, text=True) would run it."""
    words = [str(word) for word in command]
    special = any(name.startswith("PYTHON") for name in env or {} if name not in os.environ)
    if special or sys.platform != "linux":  # what only a new interpreter looks at
        done: Any = subprocess.run(
            [sys.executable, *words],
            cwd=str(cwd or os.getcwd()),
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done
    with contextlib.closing(Running(words, cwd, env)) as running:
        said = running.communicate(300)
        return subprocess.CompletedProcess(words, running.returncode, *said)


class Running:
    """`python command...` at work: of subprocess.Popen(stdout=PIPE, stderr=PIPE, text=True) what
    the tests need. before() is called first, in the new process, and must be picklable.
    """

    def __init__(
        self,
        command: Sequence[object],
        cwd: object = None,
        env: dict[str, str] | None = None,
        before: Callable[[], Any] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES.split())
        self.folder = Path(tempfile.mkdtemp())
        paths = [self.folder / name for name in ("out", "err")]
        for path in paths:
            os.mkfifo(path)
        words, place = [str(word) for word in command], str(cwd or os.getcwd())
        arguments = (words, place, env or dict(os.environ), *map(str, paths), before)
        self.process = context.Process(target=script, args=arguments)
        self.process.start()
        self.pid = self.process.pid or 0
        self.stdout, self.stderr = (
            path.open(encoding="utf-8", errors="surrogateescape") for path in paths
        )

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int:
        code = self.process.exitcode
        assert code is not None, "it is still running"
        return code

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What is left of its output and of its errors, when it has ended; TimeoutError, and it is
        killed, after so many seconds.
        """
        errors = list[str]()
        reader = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        alarm = threading.Timer(timeout, self.kill)
        reader.start()
        alarm.start()
        said = self.stdout.read()
        reader.join()
        self.wait(timeout)
        if alarm.finished.is_set():
            raise TimeoutError(f"it ran for more than {timeout} seconds: {said}{errors}")
        alarm.cancel()
        return said, errors[0]

    def close(self) -> None:
        self.kill()
        self.stdout.close()
        self.stderr.close()
        self.process.join()
        shutil.rmtree(self.folder)
