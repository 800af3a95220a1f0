"""Whole runs of the program, as a user starts them: what they write, and how they go on."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

import forked
import GAN
import rehearse
from conftest import ROOT, TINY, Run, found

COLUMNS = ["epoch", "loss_d", "loss_g", "d_real", "d_fake", "score", "floor", "variety", "novelty"]
COLUMNS += ["images", "seconds", "images_per_second"]


EVERYTHING = (  # that draws random numbers, or depends on how far a run has come
    "--loss=rpgan --r1=1 --r2=0.1 --gp_every=2 --d_every=2 --dis_dropout=0.2 --instance_noise=0.1 "
    "--lr_decay=cosine --optim_d=sgd --dis_norm=spectral --weight_decay_g=1e-3 "
    "--modulate=0.25 --augment --blocks=1 --full_fm=4 --palette=2 --lr_by_fan_in --gp_growth=3 "
    "--fm_factor=1.5 --super_res=1 --gp_aim=0.65"
)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "losses.csv") as file:
        return list(csv.DictReader(file))


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def tiles(path: Path, side: int = 32) -> np.ndarray:
    """The pictures of a grid (N, side, side, 3), blank ones at the end left out."""
    grid = np.asarray(Image.open(path))
    height, width = (n // (side + 2) for n in grid.shape[:2])
    cut = grid[: height * (side + 2), : width * (side + 2)]
    cut = cut.reshape(height, side + 2, width, side + 2, 3)[:, 2:, :, 2:]
    return cut.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)


def same(a: object, b: object) -> bool:
    """Equal to the last bit, tensors and all; how long things took does not count."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        keys = a.keys() - {"seconds", "images_per_second", "settings"}
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_what_a_run_leaves_behind(gan: Run, faces: Path, tmp_path: Path) -> None:
    done = gan(f"--data_dir={faces}", "--n_epoch=5", "--save_every=2", "--g_every=2", "--ema=100")
    out = tmp_path / "img"
    grids = [f"epoch-{n}{kind}.png" for n in (1, 2, 4, 5) for kind in ("", "-loss")]
    files = [
        ".lock",
        "checkpoint.pt",
        "checkpoint-before.pt",
        "generator.pt",
        "losses.csv",
        "real.png",
        "settings.json",
        *grids,
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)

    data, _ = GAN.load_pictures(faces, 32, out)
    known = {picture.numpy().tobytes() for picture in data}
    real = tiles(out / "real.png")
    assert len(real) == 40
    assert {picture.tobytes() for picture in real} == known

    history = rows(out)
    assert list(history[0]) == COLUMNS
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4", "5"]
    assert [row["images"] for row in history] == ["40", "80", "120", "160", "200"]
    for row in history:
        assert 0 < float(row["d_fake"]) < 1 and 0 < float(row["d_real"]) < 1
        assert float(row["loss_d"]) > 0 and float(row["loss_g"]) > 0
        line = next(x for x in done.stdout.split("\n") if x.startswith(f"epoch {row['epoch']}/5"))
        assert f"loss_d {float(row['loss_d']):.3f}" in line
    seconds = [float(row["seconds"]) for row in history]
    assert seconds == sorted(seconds)

    about = json.loads((out / "settings.json").read_text())
    assert about["settings"]["n_epoch"] == 5 and about["settings"]["gen_fm"] == 4
    assert set(about["settings"]) == set(GAN.NAMES)
    assert about["versions"]["torch"] == torch.__version__
    assert about["pictures"] == 40

    saved, generator = checkpoint(out), torch.load(out / "generator.pt", weights_only=True)
    settings = generator["settings"]
    gen = GAN.Generator(settings["image_size"], settings["noise_size"], settings["gen_fm"])
    gen.load_state_dict(generator["generator"])
    assert same(generator["generator"], saved["parts"]["average"])
    drawn = GAN.draw(gen, saved["progress"]["fixed_noise"])
    pixels = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(tiles(out / "epoch-5.png").astype(int) - pixels).max() <= 1
    before = tiles(out / "epoch-1.png")
    assert before.shape == (64, 32, 32, 3) and (before != pixels).any()
    curves = np.asarray(Image.open(out / "epoch-5-loss.png").convert("RGB")).astype(int)
    for color in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two: both losses are drawn
        assert (np.abs(curves - color).max(axis=2) < 10).sum() > 200


@pytest.mark.parametrize(
    ("n", "batch", "images"), [(1, 8, 1), (5, 8, 5), (8, 8, 8), (23, 8, 16), (40, 64, 40)]
)
def test_any_number_of_pictures(
    gan: Run, faces: Path, tmp_path: Path, n: int, batch: int, images: int
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(faces.glob("*.png"))[:n]:
        shutil.copy(path, few)
    words = ["--n_epoch=2", "--dis_norm=batch", "--init=dcgan", "--flip", "--g_every=1"]
    gan(f"--data_dir={few}", f"--batch_size={batch}", *words)
    history = rows(tmp_path / "img")
    assert [int(row["images"]) for row in history] == [images, 2 * images]
    assert all(float(row["loss_g"]) > 0 for row in history)
    assert min(Image.open(tmp_path / "img" / "real.png").size) >= 32


@pytest.mark.parametrize("size", [48, 64, 192])
def test_image_size_alone_sizes_networks_and_pictures(
    gan: Run, faces: Path, tmp_path: Path, size: int
) -> None:
    gan(f"--data_dir={faces}", "--n_epoch=1", f"--image_size={size}", "--g_every=1")
    real = tiles(tmp_path / "img" / "real.png", size)
    data, _ = GAN.load_pictures(faces, size, tmp_path)
    assert {picture.tobytes() for picture in real} == {
        picture.numpy().tobytes() for picture in data
    }
    assert tiles(tmp_path / "img" / "epoch-1.png", size).shape == (64, size, size, 3)
    first = checkpoint(tmp_path / "img")["parts"]["dis"]["0.weight"]
    assert first.shape[-1] == {48: 5, 64: 4, 192: 5}[size]  # triples or doubles


def test_turns_count_over_the_whole_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = ["--batch_size=40", "--n_epoch=6", "--d_every=2", "--g_every=3", "--save_every=1"]
    gan(f"--data_dir={faces}", *words)  # one batch an epoch
    history = rows(tmp_path / "img")
    assert [row["loss_d"] != "" for row in history] == [False, True, False, True, False, True]
    assert [row["loss_g"] != "" for row in history] == [False, False, True, False, False, True]
    saved = checkpoint(tmp_path / "img")
    steps = {key: saved["parts"][key]["state"][0]["step"].item() for key in ("opt_d", "opt_g")}
    assert steps == {"opt_d": 3, "opt_g": 2}


def test_curves_without_a_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A network that had no turn so far has no curve, and no place in the legend."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: drawn.append(figure))
    history = [{"epoch": 1, "loss_d": 0.5, "loss_g": None, "score": None}]
    GAN.save_curves(tmp_path / "loss.png", history)
    (axis,) = drawn[0].axes
    (line,) = axis.lines
    assert line.get_label() == "discriminator (loss_d)"
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0.5]])


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_two_runs_are_equal_and_so_is_an_extended_one(
    gan: Run, faces: Path, tmp_path: Path, norm: str
) -> None:
    words = [f"--data_dir={faces}", "--flip", "--g_every=2", f"--dis_norm={norm}", "--ema=100"]
    for out, n_epochs in (("a", (4,)), ("b", (4,)), ("c", (1, 3, 4))):
        for n_epoch in n_epochs:
            gan(*words, f"--n_epoch={n_epoch}", f"--img_dir={tmp_path / out}")
    a, b, c = (checkpoint(tmp_path / out) for out in "abc")
    assert same(a, b) and same(a, c)
    assert (tmp_path / "a/epoch-4.png").read_bytes() == (tmp_path / "c/epoch-4.png").read_bytes()
    other = tmp_path / "d"
    gan(*words, "--n_epoch=4", "--seed=1", f"--img_dir={other}")
    assert not same(a["parts"]["gen"], checkpoint(other)["parts"]["gen"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_ctrl_c_while_pictures_are_read(gan: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(data / "0.jpg")
    for i in range(1, 2000):
        os.link(data / "0.jpg", data / f"{i}.jpg")
    command = [sys.executable, str(ROOT / "GAN.py"), *TINY, f"--data_dir={data}"]
    command += [f"--img_dir={tmp_path / 'img'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as run:
        while not any(path.suffix == ".tmp" for path in data.iterdir()):
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        try:
            said = run.communicate(timeout=60)[1].decode()
        finally:
            run.kill()
    assert said.strip() == "GAN.py: stopped before training began; start it again as it was."
    assert run.returncode == 128 + signal.SIGINT
    assert len(list(data.iterdir())) == 2000


def test_quick96(gan: Run, faces: Path, tmp_path: Path) -> None:
    gan(
        "recipes/quick96.py", *TINY, f"--data_dir={faces}", f"--img_dir={tmp_path}/q", "--n_epoch=2"
    )
    settings = json.loads((tmp_path / "q" / "settings.json").read_text())["settings"]
    assert settings["dis_norm"] == "batch" and settings["batch_size"] == 8
    assert len(rows(tmp_path / "q")) == 2 and (tmp_path / "q" / "epoch-2.png").exists()
    saved = checkpoint(tmp_path / "q")
    assert saved["parts"]["opt_g"]["state"][0]["step"] == 10  # of every batch


WATCHED = """import sys
sys.path.insert(0, sys.argv.pop(1))
import GAN, safety
from torch.utils._python_dispatch import TorchDispatchMode

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        sys.stdout.write(f"beside training: {function}\\n")
        return function(*args, **(kwargs or {}))

def watched(folder, write=safety.RunFolder.write_waiting):
    with Watch():
        names = " ".join(path.name for path in folder.waiting)
        sys.stdout.write(f"it writes {names}\\n")  # at once: training prints, too
        return write(folder)

safety.RunFolder.write_waiting = watched
GAN.main()
"""


def test_the_thread_that_writes_leaves_torch_alone(faces: Path, tmp_path: Path) -> None:
    """What it does there would have OpenMP's threads sleep after each operation of training."""
    command = [sys.executable, "-c", WATCHED, str(ROOT), *TINY, f"--data_dir={faces}"]
    command += [f"--img_dir={tmp_path}", "--n_epoch=2", "--gen_fm=24", "--score_by=lite0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = set(re.findall(r"[\w-]+[.]\w+", " ".join(re.findall("it writes.*", done.stdout))))
    assert written == {path.name for path in tmp_path.iterdir()} - {"checkpoint-before.pt", ".lock"}
    assert "beside training" not in done.stdout


def test_pictures_grow(gan: Run, faces: Path, tmp_path: Path) -> None:
    """In blocks of 4x4 pixels in the run's first quarter, then of 2x2, then of single ones."""
    gan(f"--data_dir={faces}", "--n_epoch=8", "--grow=2", "--save_every=1", "--g_every=1")
    out = tmp_path / "img"
    for epoch in range(1, 9):
        grid = tiles(out / f"epoch-{epoch}.png").astype(int)
        assert [
            bool((grid == grid[:, ::k, ::k].repeat(k, 1).repeat(k, 2)).all()) for k in (2, 4)
        ] == [epoch <= 4, epoch <= 2]
    saved = torch.load(out / "generator.pt", weights_only=True)
    gen = GAN.make_generator(saved["settings"])
    gen.load_state_dict(saved["generator"])
    drawn = GAN.to_bytes(GAN.draw(gen, checkpoint(out)["progress"]["fixed_noise"]))
    assert np.abs(drawn.permute(0, 2, 3, 1).numpy().astype(int) - grid).max() <= 1


def test_super_resolution(gan: Run, faces: Path, tmp_path: Path) -> None:
    """Learns to double real pictures, and does so with drawn ones in what is saved."""
    words = [f"--data_dir={faces}", "--super_res=1", "--g_every=1", "--lr_g=5e-3", "--flip"]
    gan(*words, "--n_epoch=30", "--save_every=30")
    out = tmp_path / "img"
    saved = torch.load(out / "generator.pt", weights_only=True)
    gen = GAN.make_generator(saved["settings"])
    gen.load_state_dict(saved["generator"])
    fixed_noise = checkpoint(out)["progress"]["fixed_noise"]
    drawn = GAN.to_bytes(GAN.draw(gen, fixed_noise)).permute(0, 2, 3, 1)
    assert np.abs(drawn.numpy().astype(int) - tiles(out / "epoch-30.png")).max() <= 1
    real = torch.tensor(tiles(out / "real.png") / 127.5 - 1).permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(real, 2)
    plain = F.interpolate(small, scale_factor=2, mode="bicubic")
    with torch.no_grad():
        assert F.l1_loss(gen[1](small), real) < 0.95 * F.l1_loss(plain, real)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGINT, more) for more in ("--grow=2", "--grow=1 --super_res=1")]
    + [(signal.SIGTERM, EVERYTHING)],
)
def test_interrupted_anywhere_it_goes_on_as_if_nothing_had_happened(
    gan: Run, faces: Path, tmp_path: Path, number: signal.Signals, more: str
) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=24", "--batch_size=4", "--g_every=3", "--flip"]
    words += more.split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    gan(*words, f"--img_dir={whole}")
    command = [ROOT / "GAN.py", *TINY, *words, f"--img_dir={parts}", "--fresh=False"]
    stops = 0
    for wait_for in ("epoch 2/24", "epoch 6/24", "epoch 12/24"):
        with contextlib.closing(forked.Running(command)) as run:
            said = ""
            while wait_for not in said and (line := run.stdout.readline()):
                said += line
            time.sleep(0.02)  # into an epoch
            run.send_signal(number)
            said += run.communicate(60)[0]
        if run.returncode == 128 + number:
            stops += 1
            where = re.search(r"Stopped in epoch (\d+) with everything saved", said)
            assert where and "To go on: python" in said and "--n_epoch=24" in said
            assert "--fresh" not in said
            assert int(checkpoint(parts)["progress"]["epoch"]) == int(where.group(1))
        else:
            assert run.returncode == 0
    assert stops >= 2
    gan(*words, f"--img_dir={parts}")
    assert same(checkpoint(whole), checkpoint(parts))
    names = {path.name for path in whole.iterdir()}
    assert names == {path.name for path in parts.iterdir()}
    for name in names:
        if name.endswith(".png") and "loss" not in name:
            assert (whole / name).read_bytes() == (parts / name).read_bytes()
    timing = ("seconds", "images_per_second")
    plain = [[{k: v for k, v in row.items() if k not in timing} for row in rows(out)]
             for out in (whole, parts)]  # fmt: skip
    assert plain[0] == plain[1]


def test_a_finished_run_says_so(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2"]
    gan(*words)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "img").iterdir()}
    said = gan(*words).stdout
    assert "holds a finished run: 2 epochs are done" in said
    assert "--n_epoch" in said and "--fresh" in said
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "img").iterdir()}


def test_settings_under_a_checkpoint(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--g_every=1", "--ema=0"]
    gan(*words, "--n_epoch=1")
    before = (tmp_path / "img" / "checkpoint.pt").read_bytes()
    said = gan(*words, "--n_epoch=2", "--gen_fm=5", "--dis_norm=batch", code=1).stderr
    assert "gen_fm 4 -> 5" in said and "dis_norm 'none' -> 'batch'" in said
    assert "--img_dir" in said and "--fresh" in said and len(said.strip().split("\n")) == 1
    assert (tmp_path / "img" / "checkpoint.pt").read_bytes() == before
    said = gan(*words, "--n_epoch=2", "--dis_dropout=0.2", code=1).stderr
    assert "other networks" in said and "dis_dropout 0.0 -> 0.2" in said

    said = gan(*words, "--n_epoch=2", "--lr_g=1e-30", "--seed=5", "--ema=200").stdout
    assert "lr_g 0.0002 -> 1e-30" in said and "seed 0 -> 5, too late" in said
    saved = checkpoint(tmp_path / "img")
    assert saved["parts"]["opt_g"]["param_groups"][0]["lr"] == 1e-30
    assert "average" in saved["parts"]  # switched on, it starts from the generator


def test_another_share_of_dropout_under_a_checkpoint(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--dis_dropout=0.2"]
    gan(*words, "--n_epoch=1")
    said = gan(*words[:1], "--n_epoch=2", "--dis_dropout=0.4").stdout
    assert "dis_dropout 0.2 -> 0.4" in said and len(rows(tmp_path / "img")) == 2


def test_other_turns_in_the_middle_of_an_epoch(gan: Run, faces: Path, tmp_path: Path) -> None:
    """Its losses so far are sums over turns that the new settings don't count."""
    words = [f"--data_dir={faces}", "--d_every=1", "--save_every=1"]
    gan(*words, "--g_every=5", "--n_epoch=1")
    saved = checkpoint(tmp_path / "img")
    saved["progress"] |= {"batch": 3, "step": 8, "images": 64, "sums": torch.full((4,), 1e3)}
    torch.save(saved, path := tmp_path / "img" / "checkpoint.pt")
    same = tmp_path / "same"
    shutil.copytree(path.parent, same)
    said = gan(*words, "--g_every=1", "--n_epoch=2").stdout
    assert "epoch 2 begins again" in said
    assert all(float(rows(path.parent)[1][k]) < 100 for k in ("loss_d", "loss_g"))
    said = gan(*words, "--g_every=5", "--n_epoch=2", f"--img_dir={same}").stdout
    assert "begins again" not in said and float(rows(same)[1]["loss_g"]) > 1000
    assert [row["images"] for row in rows(same)] == ["40", "80"]


def test_other_pictures_under_a_checkpoint(gan: Run, faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    gan(f"--data_dir={data}", "--n_epoch=1")
    shutil.copy(data / "00000.png", data / "more.png")
    gan(f"--data_dir={data}", "--n_epoch=3", "--batch_size=41")
    assert [row["images"] for row in rows(tmp_path / "img")] == ["40", "81", "122"]


def test_beginning_anew_moves_the_old_run_aside(gan: Run, faces: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "img", [f"--data_dir={faces}", "--n_epoch=1"]
    gan(*words)
    first = {path.name: path.read_bytes() for path in out.glob("[!.]*")}
    (out / "report").mkdir()
    (out / "report" / "mine.txt").write_text("mine")
    assert f"The earlier run is now in {out / 'run-1'}" in gan(*words, "--fresh", "--seed=1").stdout
    assert {path.name: path.read_bytes() for path in (out / "run-1").iterdir()} == first
    gan(*words, "--fresh", "--gen_fm=3")
    assert {path.name for path in out.glob("[!.]*")} == {*first, "report", "run-1", "run-2"}
    assert (out / "report" / "mine.txt").read_text() == "mine"
    (out / "checkpoint.pt").unlink()  # grids without a checkpoint are not overwritten, either
    gan(*words)
    assert (out / "run-3" / "epoch-1.png").exists()


def test_a_damaged_or_foreign_checkpoint_is_refused(gan: Run, faces: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "img", [f"--data_dir={faces}", "--n_epoch=1"]
    gan(*words)
    whole = (out / "checkpoint.pt").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not a checkpoint"):
        (out / "checkpoint.pt").write_bytes(content)
        said = gan(*words, code=1).stderr
        assert "can't be read" in said and "--fresh" in said
        assert (out / "checkpoint.pt").read_bytes() == content
    torch.save({"format": "GAN.py 0"}, out / "checkpoint.pt")
    assert "of another version" in gan(*words, code=1).stderr


def test_bad_pictures_are_named_on_screen_and_in_a_file(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    for i in range(12):
        (data / f"bad {i:02}.jpg").write_bytes(b"no picture")
    (data / "人.png").write_bytes(b"no picture")
    os.mkdir(os.fsencode(data) + b"/odd \xff name")  # bytes that are no UTF-8
    with open(os.fsencode(data) + b"/odd \xff name/x.png", "wb") as file:
        file.write(b"no picture")
    narrow = os.environ | {"PYTHONIOENCODING": "cp1252"}  # as on Windows
    said = gan(f"--data_dir={data}", "--n_epoch=1", env=narrow).stdout
    assert "14 pictures can't be read" in said
    assert "bad 09.jpg" in said and "bad 10.jpg" not in said
    listed = (tmp_path / "img" / "skipped.txt").read_text("utf-8").strip().split("\n")
    assert len(listed) == 14 and any("\\udcff" in line for line in listed)
    assert any(line.startswith("人.png") for line in listed)
    gan(f"--data_dir={data}", "--dry_run", env=narrow)
    for path in [*data.glob("bad*"), data / "人.png"]:
        path.unlink()
    shutil.rmtree(os.fsencode(data) + b"/odd \xff name")
    gan(f"--data_dir={data}", "--n_epoch=2")
    assert not (tmp_path / "img" / "skipped.txt").exists()


def test_no_pictures_is_one_sentence(gan: Run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    said = gan(f"--data_dir={tmp_path / 'nothing'}", code=1).stderr
    assert said.startswith("GAN.py: No picture that can be read in") and len(said.split("\n")) == 2


def test_impossible_places_and_devices(gan: Run, faces: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = gan(f"--data_dir={faces}", f"--img_dir={tmp_path / 'file' / 'img'}", code=1).stderr
    assert f"{tmp_path / 'file'} is a file" in said and len(said.strip().split("\n")) == 1
    for device in ("warp", "cuda:77", "meta"):
        assert f"device={device} can't be used" in gan(f"--device={device}", code=1).stderr


def copy_of_the_project(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        text = (ROOT / name).read_text("utf-8")
        (folder / name).write_text(text.replace('"demo", 4096', '"demo", 24'), "utf-8")
    return folder / "GAN.py"


def test_a_fresh_clone_without_pictures_draws_avatars(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    names = ["GAN.py", "settings.py", "safety.py", "pictures.py", "forking.py", "demo_faces.py"]
    script = copy_of_the_project(tmp_path / "clone", *names)
    said = gan("--n_epoch=1", "--img_dir=img", script=script, cwd=script.parent).stdout
    assert "avatar faces are drawn" in said and "24 pictures" in said
    demo = sorted((script.parent / "data" / "demo").glob("*.png"))
    assert len(demo) == 24
    again = gan("--n_epoch=2", "--img_dir=img", script=script, cwd=tmp_path).stdout
    assert "drawn" not in again and "24 pictures" in again
    shutil.copy(faces / "00000.png", script.parent / "data" / "mine.png")
    assert "1 pictures" in gan("--n_epoch=3", script=script).stdout


def set_at_its_top(script: Path, *words: str) -> None:
    """Edit settings as a user does who has GAN.py alone."""
    text = script.read_text("utf-8")
    for word in words:
        name, value = word.removeprefix("--").split("=")
        value = value if value[0].isdigit() else repr(value)
        text, n = re.subn(rf"^{name} = .*?(?=  #)", f"{name} = {value}", text, flags=re.M)
        assert n == 1
    script.write_text(text, "utf-8")


def test_gan_alone_in_an_empty_folder(faces: Path, tmp_path: Path) -> None:
    script = copy_of_the_project(tmp_path / "alone", "GAN.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bare = {k: v for k, v in os.environ.items() if k not in ("HOME", "DISPLAY", "XDG_CACHE_HOME")}
    (tmp_path / "file").write_text("")
    bare |= {"HOME": str(tmp_path / "file" / "home"), "MPLBACKEND": ""}

    def run(*words: str, code: int = 0, new: bool = False) -> str:
        """Its output; new: in an interpreter that has imported nothing yet."""
        if new:
            command = [sys.executable, str(script), *words]
            done = subprocess.run(
                command, cwd=elsewhere, env=bare, check=False, timeout=300, capture_output=True,
                text=True,
            )  # fmt: skip
        else:
            done = forked.run([script, *words], elsewhere, bare)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    set_at_its_top(script, *TINY, "--n_epoch=1")
    assert run(code=1).startswith("GAN.py: No picture that can be read in")
    data, img = script.parent / "data", script.parent / "img"  # they lie beside GAN.py
    shutil.copytree(faces, data / "more", ignore=shutil.ignore_patterns(".GAN*"))
    (data / "bad.png").write_bytes(b"no picture")
    said = run(new=True)
    assert "40 pictures, 5 batches of 8" in said and "bad.png can't be read: cannot" in said
    assert len({tile.tobytes() for tile in tiles(img / "real.png")}) >= 40
    assert (img / "epoch-1-loss.png").exists() and len(rows(img)) == 1
    set_at_its_top(script, f"--data_dir={script.parent}", "--n_epoch=2")
    said = run()  # goes on, and what it has drawn is not for training
    assert "40 pictures" in said and "epoch 2/2" in said and "epoch 1/2" not in said
    assert "without settings.py beside it" in run("--n_epoch=3", code=1)
    set_at_its_top(script, "--loss=hinge", "--n_epoch=3")
    assert "need the files that come with GAN.py" in run(code=1)
    set_at_its_top(script, "--loss=bce", "--dry_run=True")
    assert "need the files that come with GAN.py" in run(code=1)
    assert not any(elsewhere.iterdir())


def test_for_so_many_minutes(gan: Run, faces: Path, tmp_path: Path) -> None:
    """The run ends within an epoch, with all that a run ends with; rates fall over its time."""
    words = [f"--data_dir={faces}", "--n_epoch=1000000", "--batch_size=2", "--lr_decay=linear"]
    said = gan(*words, "--minutes=0.04").stdout
    out = tmp_path / "img"
    table, whole = rows(out), checkpoint(out)
    last, images = table[-1]["epoch"], int(table[-1]["images"])
    assert f"Finished {last} epochs" in said and "1000000" not in said
    assert whole["progress"]["seconds"] >= 2.4
    assert images == whole["progress"]["images"] == 2 * whole["progress"]["step"]
    assert 40 * (int(last) - 1) < images <= 40 * int(last)  # the last one may have been cut short
    assert {f"epoch-{last}.png", f"epoch-{last}-loss.png"} <= {path.name for path in out.iterdir()}
    for name in "gd":  # what it was at the beginning of the last step
        assert 0 < whole["parts"][f"opt_{name}"]["param_groups"][0]["lr"] < 0.5 * 2e-4
    before = whole["progress"]["step"]
    assert "holds a finished run" in gan(*words, "--minutes=0.04").stdout
    said = gan(*words, "--minutes=0.06").stdout
    assert "minutes 0.04 -> 0.06: rates, noise, penalties" in said
    assert checkpoint(out)["progress"]["step"] > before
    assert checkpoint(out)["progress"]["seconds"] >= 3.6
    said = gan(*words, "--minutes=0.06", "--dry_run", "--save_every=1").stdout
    assert "00:03 to train" in said and "1000000 epochs" not in said
    assert float(found(r"disk: ([\d.]+) GB for \S*img,", said)[0]) < 10  # not for a million grids


def test_dry_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    (data / "bad.png").write_bytes(b"no picture")
    words = [f"--data_dir={data}", "--dry_run", "--g_every=2", "--save_every=50"]
    said = gan(*words, "--n_epoch=2000000").stdout
    assert not (tmp_path / "img").exists()
    assert len(list(data.iterdir())) == 41
    assert "pictures: 41 found" in said and "memory: " in said
    rate, epochs = (
        int(found(pattern, said)[0])
        for pattern in (r"epochs at (\d+) pictures/s", r"(\d+) epochs at")
    )
    hours, minutes, rest = map(int, found(r"(\d+):(\d+):(\d+) to train", said))
    seconds = hours * 3600 + minutes * 60 + rest
    assert epochs == 2_000_000
    assert seconds == pytest.approx(2_000_000 * 40 / rate, rel=0.1)
    many = gan(*words, "--r1=1", "--gp_every=12", "--n_epoch=1").stdout
    costly = Path(found(r"See (\S+) for", many)[0])
    assert int(rows(costly)[-1]["images"]) >= 2 * 12 * 8  # D with penalties in either half
    shutil.rmtree(costly)
    out = Path(found(r"See (\S+) for", said)[0])
    assert {"real.png", "epoch-1.png", "losses.csv"} <= {path.name for path in out.iterdir()}
    shutil.rmtree(out)
    assert "not enough room" in gan(*words, "--n_epoch=1000000000", code=1).stderr
    assert "there is no" in gan(*words, f"--data_dir={tmp_path / 'nothing'}", code=1).stderr
    (tmp_path / "file").write_text("")
    gan(f"--data_dir={data}", "--n_epoch=1")
    assert "other networks" in gan(*words, "--gen_fm=3", code=1).stderr


def test_long_runs_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    machine = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")
    rehearse.say_if_long(100, 100 * 1800, machine)
    assert capsys.readouterr().out == ""
    rehearse.say_if_long(100, 100 * 3600 * 3 + 6000, machine)
    said = capsys.readouterr().out
    assert "At 100 pictures/s, this run takes 3:01:00" in said
    assert "python GAN.py recipes/best96.py" in said
    mac = dataclasses.replace(machine, device=torch.device("mps"))
    rehearse.say_if_long(100, 100 * 3600, mac)
    assert "best96" not in capsys.readouterr().out


def test_a_long_run_announces_itself(gan: Run, faces: Path, tmp_path: Path) -> None:
    command = [ROOT / "GAN.py", *TINY, f"--data_dir={faces}", f"--img_dir={tmp_path / 'img'}"]
    command += ["--n_epoch=100000000", "--save_every=1000000"]
    with contextlib.closing(forked.Running(command)) as run:
        said = ""
        while "this run takes" not in said and "epoch 9999/" not in said:
            said += run.stdout.readline()
        run.send_signal(signal.SIGINT)
        said += run.communicate(60)[0]
    assert re.search(r"At \d+ pictures/s, this run takes \d+:\d+:\d+ from here", said)
    assert "python GAN.py recipes/best96.py" in said


@pytest.mark.parametrize("place", ["d_step", "g_step", "update_ema", "save_history", "say", "tqdm"])
def test_a_signal_at_every_place_of_the_loop(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Ctrl-C arrives at the n-th call of a function, n = 1, 2, …; the run goes on as if not."""
    words = [*TINY, f"--data_dir={faces}", "--n_epoch=3", "--g_every=2", "--flip"]
    handlers = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    for name in GAN.NAMES:
        monkeypatch.setattr(GAN, name, getattr(GAN, name))

    def run(out: Path, stop_at: int = 0) -> bool:
        """Train in this process; whether the signal was caught."""
        calls = 0

        def interrupted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stop_at and signal.getsignal(signal.SIGINT) is not handlers[0][1]:
                os.kill(os.getpid(), signal.SIGINT)
            return plain(*args, **kwargs)

        with monkeypatch.context() as patch:
            owner = GAN.tqdm if place == "tqdm" else GAN
            name = "set_description" if place == "tqdm" else place
            plain = getattr(owner, name)
            patch.setattr(owner, name, interrupted)
            patch.setattr(sys, "argv", ["GAN.py", *words, f"--img_dir={out}"])
            try:
                GAN.main()
            except SystemExit as end:
                assert end.code == 128 + signal.SIGINT
                return True
            finally:
                for number, handler in handlers:
                    signal.signal(number, handler)
        return False

    run(tmp_path / "whole")
    stops = 0
    for stop_at in range(1, 8):
        out = tmp_path / f"{stop_at}"
        stopped = run(out, stop_at)
        stops += stopped
        if stopped:
            run(out)
        assert same(checkpoint(tmp_path / "whole"), checkpoint(out))
    assert stops >= 1 + (place != "save_history")  # which is skipped while its last call goes on


def test_adam_goes_on_from_another_memory_layout() -> None:
    """A checkpoint of MPS has plain weights and moments; on CPU and CUDA they are channels last."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        saved = GAN.Discriminator(32, 4).to(memory_format=layout)  # type: ignore[call-overload]
        opt = torch.optim.Adam(saved.parameters(), 1e-3, fused=True)
        saved(torch.randn(4, 3, 32, 32)).sum().backward()
        opt.step()
        progress = GAN.Progress(torch.zeros(64, 1, 1, 1), torch.arange(1), torch.zeros(4))
        rng = torch.Generator()
        checkpoint: dict[str, object] = {"settings": {"noise_size": 1}}
        checkpoint |= {"parts": {"dis": saved.state_dict(), "opt_d": opt.state_dict()}}
        checkpoint |= {"progress": vars(progress), "device": "cpu", "rng": rng.get_state()}
        dis = GAN.Discriminator(32, 4).to(memory_format=torch.channels_last)
        opt = torch.optim.Adam(dis.parameters(), 1e-3, fused=True)
        parts = {"dis": dis, "opt_d": opt}
        GAN.restore(checkpoint, parts, rng, torch.zeros(1), {})
        dis(torch.randn(4, 3, 32, 32, generator=rng.manual_seed(1))).sum().backward()
        opt.step()
        results.append([weight.detach().clone() for weight in dis.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
