"""Figures of finished runs: the right grids in the right places."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

import forked
from conftest import ROOT, Run
from figures import compare
from test_run import rows


def figures(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = forked.run([ROOT / "figures.py", *words])
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_figures_of_one_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "img"
    gan(f"--data_dir={faces}", "--n_epoch=12", "--save_every=2", "--g_every=1", "--lr_g=0.01")
    figures(out)
    both, real, last = (pixels(out / f"{n}.png") for n in ("real-and-drawn", "real", "epoch-12"))
    height, width, _ = last.shape
    assert (both[30 : 30 + len(real), :width] == real).all() and len(real) < height
    assert (both[30:, -width:] == last).all() and both[:30].min() < 100  # under titles
    with Image.open(out / "timelapse.gif") as animation:
        assert animation.n_frames == 7 and animation.info["loop"] == 0
        for frame, epoch in ((0, 1), (1, 2), (6, 12)):  # and not 12 between 1 and 2
            animation.seek(frame)
            shown = np.asarray(animation.convert("RGB")).astype(int)[-height:]
            assert np.abs(shown - pixels(out / f"epoch-{epoch}.png")).mean() < 12
            assert animation.info["duration"] == (2000 if frame == 6 else 200)


def test_runs_side_by_side(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=4", "--save_every=2"]
    gan(*words, f"--img_dir={tmp_path / 'a'}")
    gan(*words, f"--img_dir={tmp_path / 'b'}", "--loss=wgan-gp", "--gp=10", "--score_by=lite0")
    runs, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "comparison.png"
    figures(*runs, "--epochs=2,4", f"--out={out}")
    assert pixels(out).std() > 20
    figure = compare(runs, [])
    grids, curves = figure.subfigs
    assert [part.get_title() for part in grids.axes] == ["epoch 1", "epoch 2", "epoch 4"] * 2
    for i, part in enumerate(grids.axes):
        expected = pixels(runs[i // 3] / f"epoch-{(1, 2, 4)[i % 3]}.png")
        assert (np.asarray(part.images[0].get_array()) == expected).all()
    for part, name in zip(curves.axes, ("loss_d", "loss_g", "score"), strict=True):
        for line, run in zip(part.lines, runs, strict=True):
            points = [(float(r["images"]), float(r[name])) for r in rows(run) if r[name]]
            assert np.asarray(line.get_xydata()).tolist() == [list(point) for point in points]
    assert [len(np.asarray(line.get_xydata())) for line in curves.axes[2].lines] == [0, 3]  # scores
    assert "epoch 3" in figures(*runs, "--epochs=3", code=1).stderr
    (tmp_path / "empty").mkdir()
    assert "there is no epoch-N.png" in figures(tmp_path / "empty", code=1).stderr
    assert "whole numbers" in figures(*runs, "--epochs=x", code=2).stderr
    out.unlink()
    figures(*runs)
    assert pixels(out).std() > 20  # beside the first folder
    out.unlink()
    figures(runs[0], "--epochs=2")
    assert pixels(out).std() > 20
