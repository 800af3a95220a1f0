"""What several tests need: a folder of avatar faces, and the program run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import forked

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and threads would wait for threads
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup, which programs would inherit

TINY = [
    "--device=cpu",
    "--image_size=32",
    "--noise_size=8",
    "--gen_fm=4",
    "--dis_fm=4",
    "--batch_size=8",
    "--score_by=none",
]


def found(pattern: str, text: str, flags: int = 0) -> tuple[str, ...]:
    """The groups of a pattern that must be there."""
    match = re.search(pattern, text, flags)
    assert match, f"no {pattern} in {text}"
    return match.groups()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # after OMP_NUM_THREADS is set

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 avatar faces, 48×48."""
    import demo_faces

    folder = tmp_path_factory.mktemp("pictures") / "faces"
    demo_faces.draw(folder, n=40, size=48)
    return folder


@pytest.fixture
def gan(tmp_path: Path) -> Run:
    """Run GAN.py, tiny, with img_dir=tmp_path/img; other words and settings of run() as given."""

    def run(
        *words: str,
        code: int = 0,
        script: Path = ROOT / "GAN.py",
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [str(script), *TINY, f"--img_dir={tmp_path / 'img'}", *words]
        env = {**os.environ, "TMPDIR": str(tmp_path), **(env or {})}
        done = forked.run(command, cwd, env)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
