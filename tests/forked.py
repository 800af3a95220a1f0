"""Runs a Python script in a process of its own, forked from one that has imported torch already.

Importing it anew takes most of the time of a small run, and the tests make hundreds of them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = "torch torch.utils.data torchvision.utils PIL.ImageOps tqdm filelock runpy tempfile"
LIBRARIES += " matplotlib.figure matplotlib.backends.backend_agg torch_fidelity timm"


def script(command: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """What `python command...` does, in a new process and with output into files."""
    for number, path in (1, out), (2, err):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    stdout: Any = sys.stdout  # which writes to number 1
    stdout.reconfigure(encoding="utf-8")
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES.split())
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        arguments = (words, str(cwd or os.getcwd()), env or dict(os.environ), str(out), str(err))
        process = context.Process(target=script, args=arguments)
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{words} ran for more than 300 seconds")
        code = process.exitcode
        texts = [path.read_text("utf-8", "surrogateescape") for path in (out, err)]
    return subprocess.CompletedProcess(words, -1 if code is None else code, *texts)
