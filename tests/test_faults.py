"""Whatever happens to a run, no finished work is lost, and one sentence says what was wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import forked
import GAN
import safety
from conftest import ROOT, TINY, Run
from test_run import EVERYTHING, checkpoint, rows, same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses what Linux offers")
TIMING = ("seconds", "images_per_second")


def assert_equal_runs(a: Path, b: Path) -> None:
    """The very weights, curves and grids."""
    one, other = checkpoint(a), checkpoint(b)
    assert same(one["parts"], other["parts"]) and same(one["rng"], other["rng"])
    plain = [[{k: v for k, v in row.items() if k not in TIMING} for row in rows(out)]
             for out in (a, b)]  # fmt: skip
    assert plain[0] == plain[1]
    grids = sorted(path.name for path in a.glob("*.png"))
    assert grids == sorted(path.name for path in b.glob("*.png")) and len(grids) > 2
    for name in grids:
        if "loss" not in name:
            assert (a / name).read_bytes() == (b / name).read_bytes()
    assert not list(b.glob(".*.tmp"))


def remove_in_use(folder: Path) -> None:
    """Remove a folder into which a run may write at the same moment."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return shutil.rmtree(folder)
    raise AssertionError(f"{folder} is always filled again")


@contextmanager
def running(
    *words: str, before: Callable[[], object] | None = None, cwd: Path | None = None
) -> Iterator[tuple[forked.Running, Callable[[str], str]]]:
    """GAN.py at work, and a function that reads its output until a text is in it."""
    run = forked.Running([ROOT / "GAN.py", *TINY, *words], cwd, before=before)
    said = ""

    def read_until(text: str) -> str:
        nonlocal said
        while text not in said and (line := run.stdout.readline()):
            said += line
        assert text in said, said + run.stderr.read()
        return said

    try:
        yield run, read_until
    finally:
        run.close()


def test_killed_at_any_moment(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=30", "--batch_size=4", "--flip", "--save_every=10"]
    words += EVERYTHING.split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    gan(*words, f"--img_dir={whole}")
    words.append("--checkpoint_minutes=0.0005")
    chance, kills = random.Random(0), 0
    while kills < 6:
        with running(*words, f"--img_dir={parts}") as (run, read_until):
            read_until("look into")
            time.sleep(chance.uniform(0, 0.5))
            assert run.poll() is None  # else too fast a machine for so few epochs
            run.kill()
        kills += 1
    gan(*words, f"--img_dir={parts}")
    assert_equal_runs(whole, parts)


def test_checkpoints_where_an_epoch_has_one_batch(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", "--n_epoch=1000000", "--save_every=1000000"]
    words += ["--batch_size=40", "--checkpoint_minutes=0.0001", f"--img_dir={out}"]
    with running(*words) as (run, read_until):
        read_until("epoch 30/")
        run.kill()
    assert checkpoint(out)["progress"]["step"] > 10


def test_checkpoints_between_epochs(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=1000000", "--save_every=1000000"]
    out = tmp_path / "img"
    with running(*words, "--checkpoint_minutes=0.001", f"--img_dir={out}") as (run, read_until):
        read_until("epoch 30/")
        run.kill()
    assert checkpoint(out)["progress"]["step"] > 10  # of the first epoch alone otherwise
    assert safety.read_saved(out / "checkpoint-before.pt")["progress"]["step"] > 5


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut by a byte": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "flipped": lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    "zeros": lambda whole: whole[:4096] + bytes(4096) + whole[8192:],
    "text": lambda whole: b"not a checkpoint",
}


def test_a_damaged_checkpoint(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--save_every=2"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    gan(*words, "--n_epoch=6", f"--img_dir={whole}")
    gan(*words, "--n_epoch=4", f"--img_dir={half}")
    sentence = r"checkpoint.pt can't be read \(.+\): going on from the one before it"
    for name, damage in DAMAGES.items():
        out = tmp_path / name
        shutil.copytree(half, out)
        path = out / "checkpoint.pt"
        path.write_bytes(damage(path.read_bytes()))
        said = gan(*words, "--n_epoch=6", f"--img_dir={out}").stdout
        assert re.search(sentence, said), name
        assert "epoch 3/6" in said and "epoch 2/6" not in said
        assert_equal_runs(whole, out)
        safety.read_saved(out / "checkpoint-before.pt")  # the damaged one has not taken its place


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path, chance = tmp_path / "x.pt", random.Random(0)
    content = {"weights": torch.randn(50, 50), "more": [torch.arange(10), "text", 1.5]}
    GAN.write_file(path, lambda file: torch.save(content, file))
    whole, noticed = path.read_bytes(), 0
    for i in chance.sample(range(len(whole)), 500):
        path.write_bytes(
            whole[:i] + bytes([whole[i] ^ (1 << chance.randrange(8))]) + whole[i + 1 :]
        )
        try:
            saved = safety.read_saved(path)
        except Exception:
            noticed += 1
        else:
            assert same(saved, content)  # padding, or a date
    assert noticed > 400


def test_both_checkpoints_damaged(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--save_every=2", "--n_epoch=4"]
    gan(*words)
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (tmp_path / "img" / name).write_bytes(b"no")
    said = gan(*words, code=1).stderr
    assert "can't be read" in said and "--fresh" in said and "\n" not in said.strip()
    gan(*words, "--fresh")
    assert (tmp_path / "img" / "run-1" / "checkpoint.pt").read_bytes() == b"no"


def test_killed_between_two_renames(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--save_every=2", "--n_epoch=4"]
    gan(*words)
    (tmp_path / "img" / "checkpoint.pt").unlink()
    said = gan(*words).stdout
    assert "epoch 3/4" in said and "epoch 2/4" not in said and "moved" not in said


class Evil:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch evil",))


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.pt"])
def test_files_of_strangers_run_no_code(gan: Run, faces: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "img"
    out.mkdir()
    torch.save({"format": GAN.FORMAT, "settings": {}, "generator": Evil()}, out / name)
    if name == "checkpoint.pt":
        said = gan(f"--data_dir={faces}", code=1, cwd=tmp_path).stderr
    else:
        command = [sys.executable, str(ROOT / "evaluate.py"), str(out / name), str(faces)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        said = done.stderr
    assert "can't be read" in said or "is no generator.pt" in said
    assert len(said.strip().split("\n")) == 1 and not (tmp_path / "evil").exists()


def test_a_checkpoint_with_parts_of_another_program(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2"]
    gan(*words, "--n_epoch=1")
    path = tmp_path / "img" / "checkpoint.pt"
    for part in ("parts", "progress", "rng", "epoch"):
        saved = checkpoint(tmp_path / "img")
        whole = path.read_bytes()
        if part == "epoch":
            del saved["progress"]["epoch"]
        else:
            saved[part] = {"something": torch.zeros(3)}
        torch.save(saved, path)
        said = gan(*words, code=1).stderr
        assert "holds no run of GAN.py" in said or "can't be read" in said
        assert len(said.strip().split("\n")) == 1
        path.write_bytes(whole)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals(faces: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", "--n_epoch=1000000", f"--img_dir={out}"]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # whatever pytest does
    with running(*words, before=heard) as (run, read_until):
        read_until("epoch 3/")
        run.send_signal(number)
        said = read_until("To go on: python")
        assert run.wait(60) == 128 + number and "with everything saved" in said
    assert checkpoint(out)["progress"]["epoch"] >= 3


@pytest.mark.parametrize("other", [signal.SIGHUP, signal.SIGTERM])
def test_two_signals_are_no_second_ctrl_c(
    faces: Path, tmp_path: Path, other: signal.Signals
) -> None:
    """Clusters send SIGTERM twice, or another one with it."""
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", "--n_epoch=1000000", f"--img_dir={out}"]
    heard = partial(signal.signal, other, signal.SIG_DFL)
    with running(*words, before=heard) as (run, read_until):
        read_until("epoch 3/")
        run.send_signal(signal.SIGTERM)
        run.send_signal(other)
        time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            run.send_signal(other)
        said = run.communicate(timeout=60)
        assert run.returncode in (128 + signal.SIGTERM, 128 + other)
        assert "with everything saved" in said[0] and "Traceback" not in said[1]
    assert checkpoint(out)["progress"]["epoch"] >= 3


# Starts GAN.py where flushing a checkpoint, or opening a picture, takes long.
SLOW_DISK = "import os, time; f = os.fsync; name = lambda n: os.readlink(f'/proc/self/fd/{n}'); "
SLOW_DISK += "os.fsync = lambda n: (time.sleep(60 * ('checkpoint' in name(n))), f(n))"
SLOW_READING = "import PIL.Image as I, time; f = I.open; "
SLOW_READING += "I.open = lambda *a, **k: (time.sleep(0.5), f(*a, **k))[1]"


def slowly(how: str, *words: str) -> subprocess.Popen[str]:
    text = f"{how}; import runpy, sys; sys.argv = sys.argv[1:]; "
    text += "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); "
    text += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", text, str(ROOT / "GAN.py"), *TINY, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_a_second_ctrl_c_ends_at_once(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", "--n_epoch=1000000", "--fresh", f"--img_dir={out}"]
    with slowly(SLOW_DISK, *words) as run:
        assert run.stdout
        while "look into" not in run.stdout.readline():
            pass
        for _ in range(2):
            time.sleep(1)
            run.send_signal(signal.SIGINT)
        begun = time.monotonic()
        said = run.communicate(timeout=50)[0]
        assert run.returncode == 130 and time.monotonic() - begun < 30
        assert "Stopped at once. To go on from the last save: python" in said
        assert "--fresh" not in said


WHILE_FORKING = """
import os, signal, sys
from forking import STOPS, signals_wait
came = []
for number in STOPS:
    signal.signal(number, lambda number, _: came.append(number))
ignored = signal.SIGHUP if "nohup" in sys.argv else None
if ignored:
    signal.signal(ignored, signal.SIG_IGN)
with signals_wait():
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert not came
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
assert came == [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if n != ignored]
try:
    with signals_wait():
        raise OSError("no more processes")
except OSError:
    os.kill(os.getpid(), signal.SIGTERM)
    assert came[-1] == signal.SIGTERM  # as before
"""


@pytest.mark.parametrize("word", ["", "nohup"])
def test_signals_while_a_process_is_forked(word: str) -> None:
    """None is lost, each comes once, in its order; the child leaves all but SIGTERM to us."""
    command = [sys.executable, "-c", WHILE_FORKING, word]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_while_pictures_are_read(
    faces: Path, tmp_path: Path, number: signal.Signals
) -> None:
    data, out = tmp_path / "data", tmp_path / "img"
    data.mkdir()
    for path in faces.glob("*.png"):
        for copy in "abcd":  # enough for processes that read side by side
            shutil.copy(path, data / f"{copy}{path.name}")
    before = sorted(data.iterdir())
    with slowly(SLOW_READING, f"--data_dir={data}", f"--img_dir={out}") as run:
        for _ in range(600):
            if list(data.glob("*.tmp")):
                break
            time.sleep(0.1)
        time.sleep(0.5)
        run.send_signal(number)
        said = run.communicate(timeout=60)[1]
        assert run.returncode == 128 + number
        assert "stopped before training began" in said and "Traceback" not in said
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)  # nobody is left
    assert sorted(data.iterdir()) == before and [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_while_avatars_are_drawn(tmp_path: Path, number: signal.Signals) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, code)
    command = [sys.executable, str(code / "GAN.py"), *TINY]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        for _ in range(600):
            if list(code.glob("data/.drawing-*/faces/*.png")):
                break
            time.sleep(0.1)
        run.send_signal(number)
        run.communicate(timeout=60)
        for _ in range(100):
            try:
                os.killpg(run.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("processes are left")
    if number == signal.SIGTERM:
        assert run.returncode == 128 + number and not list((code / "data").iterdir())


def test_nohup_goes_on(faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=1000000", f"--img_dir={tmp_path / 'img'}"]
    ignored = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    with running(*words, before=ignored) as (run, read_until):
        read_until("epoch 3/")
        run.send_signal(signal.SIGHUP)
        read_until("epoch 30/")
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 128 + signal.SIGTERM


def test_nobody_listens(gan: Run, faces: Path, tmp_path: Path) -> None:
    """The terminal is gone, or what the output was piped into: training goes on."""
    out = tmp_path / "img"
    command = [sys.executable, str(ROOT / "GAN.py"), *TINY, f"--data_dir={faces}"]
    command += ["--n_epoch=60", f"--img_dir={out}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as run:
        assert run.stdout and run.stderr
        run.stdout.readline()
        run.stdout.close()
        run.stderr.close()
        run.wait(120)
    assert len(rows(out)) == 60 and (out / "epoch-60.png").exists()


def test_two_runs_in_one_folder(gan: Run, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", f"--img_dir={out}"]
    with running(*words, "--n_epoch=1000000") as (run, read_until):
        read_until("epoch 30/")
        before = sorted(path.name for path in out.glob("*.pt"))
        for more in ([], ["--fresh"]):
            said = gan(*words, *more, code=1).stderr
            assert f"process {run.pid} on " in said and "--img_dir" in said
        assert sorted(path.name for path in out.glob("*.pt")) == before
        remove_in_use(out)  # that frees nothing either
        wait_for_checkpoint(out, 2)
        assert f"process {run.pid} on " in gan(*words, code=1).stderr
        run.kill()
        run.wait(60)
        gan(*words, "--n_epoch=2")  # a dead one holds nothing


def test_the_second_run_names_the_first_while_that_reads(faces: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "img"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    words = [f"--data_dir={data}", f"--img_dir={out}"]
    with slowly(SLOW_READING, *words) as run:
        for _ in range(600):
            if (out / ".process").exists():
                break
            time.sleep(0.1)
        done = forked.run([ROOT / "GAN.py", *TINY, *words])
        assert done.returncode == 1 and f"process {run.pid} on " in done.stderr
        run.kill()


def wait_for_checkpoint(out: Path, epoch: int) -> None:
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError):
            if checkpoint(out)["progress"]["epoch"] >= epoch:
                return
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of epoch {epoch}")


def limit_files(size: int) -> Callable[[], None]:
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk(gan: Run, faces: Path, tmp_path: Path) -> None:
    """What can't be written is written as soon as there is room; nothing is lost."""
    words = [f"--data_dir={faces}", "--n_epoch=30", "--save_every=5", "--batch_size=4"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    gan(*words, f"--img_dir={whole}")
    size = (whole / "checkpoint.pt").stat().st_size
    for room in (size // 2, 100):
        # With room for small files only, then for none.
        with running(*words, f"--img_dir={out}", before=limit_files(10**9)) as (run, read_until):
            read_until("epoch 6/30")
            wait_for_checkpoint(out, 6)
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            said = read_until("Make room or a way for it")
            assert "can't be written (File too large). It is tried again with the next" in said
            assert "epoch 30/30" in said
            assert checkpoint(out)["progress"]["epoch"] >= 6  # the last good one
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (10**9, resource.RLIM_INFINITY))
            read_until("Finished 30 epochs")
            assert run.wait(60) == 0
        assert_equal_runs(whole, out)
        shutil.rmtree(out)


def test_stopped_on_a_full_disk(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "img"
    words = [f"--data_dir={faces}", "--n_epoch=1000000", f"--img_dir={out}"]
    with running(*words, before=limit_files(10**9)) as (run, read_until):
        read_until("epoch 12/")
        wait_for_checkpoint(out, 11)
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=60)
        assert run.returncode == 128 + signal.SIGTERM and "Traceback" not in said[1]
        assert "Stopped, but" in said[0] and "can't be written (File too large)" in said[0]
        assert "To go on from the save before: python" in said[0]
    assert checkpoint(out)["progress"]["epoch"] >= 11


def test_a_disk_that_is_full_at_the_start(faces: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "img"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    with running(f"--data_dir={data}", f"--img_dir={out}", before=limit_files(100)) as (run, _):
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 1 and "File too large: " in said and ".GAN-all-32.cache" in said
    assert "Traceback" not in said and "start again" in said


def test_statistics_that_can_not_be_written_cost_nothing(faces: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "img"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    words = [f"--data_dir={data}", f"--img_dir={out}", "--score_by=lite0", "--n_epoch=1"]
    with running(*words, before=limit_files(400_000)) as (run, _):
        said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    assert not list(tmp_path.rglob("*.stats")) and not list(tmp_path.rglob(".*.tmp"))
    assert rows(out)[0]["score"] and "without scores" not in said[0]


def test_what_torch_can_not_save_is_not_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch.save() says that memory is short with a RuntimeError."""
    folder, tries = safety.RunFolder(tmp_path), list[str]()

    def write(path: Path) -> None:
        tries.append(path.name)
        if len(tries) < 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        path.write_bytes(b"whole")

    folder.write({tmp_path / "checkpoint.pt": write})
    assert not folder.working.result()
    folder.caught.append(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        folder.finish(1)
    assert end.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().out
    assert "Stopped, but" in said and "can't allocate memory" in said
    assert "everything saved" not in said
    folder.caught.clear()
    folder.write({})
    folder.finish(1)
    folder.close()
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"whole" and len(tries) == 3


def test_killed_while_the_earlier_run_moves_aside(
    gan: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, out = [f"--data_dir={faces}", "--n_epoch=2", "--save_every=1"], tmp_path / "img"
    gan(*words)
    names = {path.name for path in out.glob("[!.]*")}
    rename, done = Path.rename, list[Path]()

    def killed(path: Path, target: Path) -> Path:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    folder = safety.RunFolder(out)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.begin(True, [])
    monkeypatch.undo()
    folder.close()
    said = gan(*words).stdout
    assert "run-1" in said and "epoch 1/2" in said
    assert {path.name for path in (out / "run-1").iterdir()} == names
    assert not (out / "run-2").exists() and not (out / ".aside").exists()


def test_a_checkpoint_that_is_away(gan: Run, faces: Path, tmp_path: Path) -> None:
    """A link to a disk that is not there is no reason to begin anew."""
    words, out = [f"--data_dir={faces}", "--n_epoch=2"], tmp_path / "img"
    gan(*words)
    (out / "checkpoint-before.pt").unlink()
    (out / "checkpoint.pt").rename(tmp_path / "away.pt")
    (out / "checkpoint.pt").symlink_to(tmp_path / "disk" / "away.pt")
    before = (out / "losses.csv").read_bytes()
    assert "No such file" in gan(*words, code=1).stderr
    assert (out / "losses.csv").read_bytes() == before and (out / "checkpoint.pt").is_symlink()


def test_the_current_folder_is_gone(faces: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    words = [f"--data_dir={faces}", "--img_dir=.", "--n_epoch=60", "--save_every=20"]
    with running(*words, cwd=here) as (run, read_until):
        read_until("epoch 3/")
        remove_in_use(here)
        read_until("Finished 60 epochs")
        assert run.wait(60) == 0
    assert len(rows(here)) == 60


def test_other_pictures_than_before(gan: Run, faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    words = [f"--data_dir={data}", "--n_epoch=2"]
    gan(*words, "--n_epoch=1")
    assert "other pictures" not in gan(*words).stdout
    one = (data / "00000.png").read_bytes()
    for path in data.glob("*.png"):
        path.write_bytes(one)
    assert "These are other pictures than before" in gan(*words, "--n_epoch=3").stdout


def test_folders_without_permission_are_named(faces: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "img"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    for name, rights in ("closed", 0), ("listed", 0o444):
        shutil.copytree(faces, data / name, ignore=shutil.ignore_patterns(".GAN*", "*[1-9].png"))
        (data / name).chmod(rights)
    words = [f"--data_dir={data}", f"--img_dir={out}", "--n_epoch=1"]
    with running(*words, before=forked.obey_permissions) as (run, _):
        said = run.communicate(timeout=60)
    for name in "closed", "listed":
        (data / name).chmod(0o755)
    assert run.returncode == 0, said
    assert "40 pictures" in said[0]
    bad = (out / "skipped.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in bad] == [
        "closed", *(f"listed/000{i}0.png" for i in range(4))
    ]  # fmt: skip
    assert all("Permission denied" in line for line in bad)


@pytest.mark.parametrize("then", ["nothing", "a file"])
def test_img_dir_removed_during_the_run(gan: Run, faces: Path, tmp_path: Path, then: str) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=30", "--save_every=5", "--batch_size=4"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    gan(*words, f"--img_dir={whole}")
    with running(*words, f"--img_dir={out}") as (run, read_until):
        read_until("epoch 6/30")
        out.rename(tmp_path / "elsewhere")
        if then == "a file":
            out.write_text("")
            read_until("Make room or a way for it")
            out.unlink()
        read_until("Finished 30 epochs")
        assert run.wait(60) == 0
    assert same(checkpoint(whole)["parts"], checkpoint(out)["parts"])
    assert len(rows(out)) == 30 and (out / "epoch-30.png").exists()


def stop_while_drawing() -> None:
    """Before a program starts: let it stop, as by Ctrl-Z, amid the second picture of its curves."""
    from matplotlib.figure import Figure

    calls, draw = count(1), Figure.subplots

    def subplots(*args: Any, **kw: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return draw(*args, **kw)

    Figure.subplots = subplots  # type: ignore[method-assign]


def test_img_dir_taken_by_another_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=30", "--save_every=5", "--batch_size=4"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    gan(*words, f"--img_dir={whole}")
    with running(*words, f"--img_dir={out}", before=stop_while_drawing) as (run, read_until):
        while "State:\tT" not in Path(f"/proc/{run.pid}/status").read_text():
            assert run.poll() is None
            time.sleep(0.1)
        out.rename(tmp_path / "elsewhere")
        gan(*words, "--n_epoch=1", f"--img_dir={out}")
        other = {path.name: path.read_bytes() for path in out.iterdir()}
        run.send_signal(signal.SIGCONT)
        said = read_until("Make room or a way for it")
        assert f"another run is in {out} by now: move it aside" in said
        assert other == {path.name: path.read_bytes() for path in out.iterdir()}
        out.rename(tmp_path / "other")
        read_until("Finished 30 epochs")
        assert run.wait(60) == 0
    assert same(checkpoint(whole)["parts"], checkpoint(out)["parts"])


def test_a_folder_that_may_not_be_written(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=30", "--save_every=5", "--batch_size=4"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    gan(*words, f"--img_dir={whole}")
    with running(*words, f"--img_dir={out}", before=forked.obey_permissions) as (run, read_until):
        read_until("epoch 6/30")
        wait_for_checkpoint(out, 6)
        out.chmod(0o555)
        said = read_until("Make room or a way for it")
        assert "can't be written (Permission denied). It is tried again" in said
        assert "epoch-30.png" not in {path.name for path in out.iterdir()}
        out.chmod(0o755)
        read_until("Finished 30 epochs")
        assert run.wait(60) == 0
    assert_equal_runs(whole, out)
    out.chmod(0o555)
    with running(*words, "--fresh", f"--img_dir={out}", before=forked.obey_permissions) as (run, _):
        said = run.communicate(timeout=60)[1]
        assert run.returncode == 1 and "Permission denied" in said and "Traceback" not in said
    out.chmod(0o755)
    assert_equal_runs(whole, out)


def test_data_that_may_only_be_read(faces: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    secret = data / "00003.png"
    secret.chmod(0)
    data.chmod(0o555)
    before = sorted(data.iterdir())
    words = [f"--data_dir={data}", f"--img_dir={out}", "--n_epoch=1"]
    with running(*words, before=forked.obey_permissions) as (run, _):
        said = run.communicate(timeout=60)
    assert run.returncode == 0, said
    assert "39 pictures" in said[0] and "00003.png: [Errno 13] Permission denied" in said[0]
    assert sorted(data.iterdir()) == before and list(out.glob(".GAN-all-32.cache"))
    secret.chmod(0o644)
    with running(*words, "--fresh", before=forked.obey_permissions) as (run, _):
        assert "40 pictures" in run.communicate(timeout=60)[0]


@pytest.mark.parametrize("hang_up", [True, False])
def test_the_terminal_is_closed(faces: Path, tmp_path: Path, hang_up: bool) -> None:
    """With a signal, which stops the run, or without, after which nothing can be printed."""
    out, (ours, theirs) = tmp_path / "img", os.openpty()
    n_epoch = 1_000_000 if hang_up else 60
    command = [sys.executable, str(ROOT / "GAN.py"), *TINY, f"--data_dir={faces}"]
    command += [f"--n_epoch={n_epoch}", f"--img_dir={out}"]

    def owned() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever pytest does
        if hang_up:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=owned,
    ) as run:  # fmt: skip
        os.close(theirs)
        said = b""
        while b"epoch 3/" not in said:
            said += os.read(ours, 1000)
        os.close(ours)
        code = run.wait(120)
    if hang_up:
        assert code == 128 + signal.SIGHUP and checkpoint(out)["progress"]["epoch"] >= 3
    else:
        assert code == 0 and len(rows(out)) == 60


def test_too_much_for_the_memory(gan: Run, faces: Path) -> None:
    said = gan(f"--data_dir={faces}", "--gen_fm=1000000", code=1).stderr
    assert said == (
        "GAN.py: out of memory. Use a smaller --batch_size, or --gen_fm and --dis_fm.\n"
    )


@pytest.mark.parametrize(("most", "advice"), [(10, "--batch_size=8 fits."), (0, "Not even")])
def test_the_batch_size_that_a_gpu_is_advised(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, advice: str
) -> None:
    """The first half, quarter, ... that every kind of step can be made with, as graphs, too."""
    import rehearse

    made: list[tuple[int, tuple[bool, ...]]] = []
    build_steps = GAN.build_steps

    def with_little_memory(*about: Any) -> Any:
        def limited(kind: tuple[bool, ...], step: Callable[..., Any], *inputs: Any) -> Any:
            made.append((len(inputs[0]), kind))
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError
            return step(*inputs)

        steps = build_steps(*about)
        return {kind: partial(limited, kind, step) for kind, step in steps.items()}

    monkeypatch.setattr(GAN, "build_steps", with_little_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 10**9))
    tiny = {"image_size": 32, "gen_fm": 4, "dis_fm": 4, "batch_size": 64, "device": "cpu"}
    for name, value in (tiny | {"data_dir": str(faces), "img_dir": str(tmp_path / "img")}).items():
        monkeypatch.setattr(GAN, name, value)
    assert rehearse.advice_on_memory().startswith(advice)
    whole = [(8, (True, more, True)) for more in (True, False) for _ in range(4)]
    tried = [32, 16] if most else [32, 16, 8, 4, 2, 1]
    assert made == [(n, (True, True, True)) for n in tried] + (whole if most else [])


def test_all_that_is_wrong_is_said_at_once(gan: Run, tmp_path: Path) -> None:
    words = "--batch_size=0 --image_size=100 --g_every=0 --beta1_g=1 --n_epcoh=5 --ema --noise"
    wrong = gan(*words.split(), "nothing.py", f"--data_dir={tmp_path}", code=1).stderr
    for part in ("batch_size must", "image_size must", "g_every must", "beta1_g must"):
        assert part in wrong
    for part in ("is it n_epoch?", "write --ema=VALUE", "nothing.py is neither"):
        assert part in wrong
    words = "--loss=wgan-gp --label_smoothing=0.1 --score_by=dinov2-vit-b-14 --score_weights=no.pt"
    wrong = gan(*words.split(), f"--data_dir={tmp_path}", code=1).stderr
    assert "wgan-gp needs gp" in wrong and "label_smoothing is for" in wrong
    assert "score_weights: there is no file" in wrong and not (tmp_path / "img").exists()
    words = "--noise_size=4e18 --r1=1e300 --device=foo --label_smoothing=0.1 --loss=hinge"
    (tmp_path / "file").write_text("")
    places = [f"--img_dir={tmp_path / 'file' / 'img'}", "--data_dir=/nowhere"]
    wrong = gan(*words.split(), *places, code=1).stderr
    for part in ("noise_size must be", "r1 must be", "device=foo can't", "there is no /nowhere"):
        assert part in wrong
    assert f"{tmp_path / 'file'} is a file" in wrong


def test_a_run_does_not_learn_from_another(gan: Run, faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    words = [f"--data_dir={data}", "--n_epoch=1"]
    gan(*words, f"--img_dir={data / 'out'}")
    gan(*words, f"--img_dir={data / 'out'}", "--fresh")  # the earlier one lies in out/run-1
    assert "40 pictures," in gan(*words).stdout


def test_a_run_does_not_learn_from_itself(gan: Run, faces: Path, tmp_path: Path) -> None:
    said = gan(f"--data_dir={tmp_path}", f"--img_dir={tmp_path}/../{tmp_path.name}", code=1).stderr
    assert "img_dir must not be data_dir" in said and not list(tmp_path.iterdir())


def test_numbers_that_go_bad_do_not_reach_a_checkpoint_between_epochs(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=3", "--checkpoint_minutes=1e-9", "--batch_size=2"]
    gan(*words, "--n_epoch=1")
    before = (tmp_path / "img" / "checkpoint.pt").read_bytes()
    said = gan(*words, "--lr_g=1e38", "--lr_d=1e38", "--optim_g=adam", code=1).stderr
    assert "in epoch 2 the losses are no longer numbers" in said
    saved = checkpoint(tmp_path / "img")
    finite = [v.isfinite().all() for v in saved["parts"]["gen"].values() if v.is_floating_point()]
    assert all(finite)
    assert before in [path.read_bytes() for path in (tmp_path / "img").glob("checkpoint*.pt")]


def test_damaged_and_hostile_input(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [ROOT / "bench" / "fuzz.py", "--seconds=120", "--cases=15", f"--out={out}"]
    done = forked.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())["results"]
    assert len(results) == 6
    for counts in results.values():
        assert counts["tried"] == 15 and counts["crashes"] == []
        assert counts["read"] + counts["skipped"] + counts["refused"] == 15
    assert results["settings"]["read"] > 0


def test_a_fault_that_the_fuzzer_must_find(tmp_path: Path) -> None:
    """The fuzzer notices what it is there for: a reader without protection."""
    text = (ROOT / "bench" / "fuzz.py").read_text("utf-8")
    guarded = "bad = pictures.decode_some("
    assert guarded in text
    (tmp_path / "bench" / "results").mkdir(parents=True)
    for path in [*ROOT.glob("*.py"), ROOT / "bench" / "speed.py"]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    broken = text.replace(guarded, "pictures.decode(folder / name, SIDE); " + guarded)
    (tmp_path / "bench" / "fuzz.py").write_text(broken, "utf-8")
    words = ["--only=pictures", "--cases=15", f"--out={tmp_path / 'fuzz.json'}"]
    done = forked.run([tmp_path / "bench" / "fuzz.py", *words])
    assert done.returncode == 1 and "UnidentifiedImageError" in done.stdout
