"""Does the health monitor recognise every broken run, and accuse no healthy one?

    python bench/health.py FACES AVATARS [--only=TEXT]    into results/health.json

FACES and AVATARS are folders or zip files of pictures. Small networks (16 feature maps, 48×48
pixels) are trained on 4,000 of them, or on very few, as they should be and in ways that can't work
(--only: the runs with TEXT in their names). What GAN.py measured of each run, its history, is
written down with the remarks that evaluate.py has on it; tests/test_evaluate.py holds remarks()
against these histories again.

    python bench/health.py --add=IMG_DIR      adds a healthy run of GAN.py's from elsewhere
    python bench/health.py --again            the remarks and figure anew, from the histories

The figure, img/report/scores.png, shows losses and scores of the healthy runs on faces.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import GAN  # noqa: E402
from evaluate import remarks  # noqa: E402
from speed import cpu_name  # noqa: E402

RESULTS = HERE / "results" / "health.json"
SMALL = ["--image_size=48", "--gen_fm=16", "--dis_fm=16", "--seed=2"]
QUICK = ["recipes/quick96.py", *SMALL, "--save_every=1000000"]  # batches of 64, batch norm in D
PLAIN = [*SMALL, "--save_every=1000000"]  # the default: batches of 256, G learns from every fifth
SMALLER = [*PLAIN, "--batch_size=64"]  # four times as many steps to a picture
TWENTY = ["--image_size=32", "--gen_fm=32", "--dis_fm=16", "--g_every=1", "--init=dcgan"]
TWENTY += ["--save_every=1000000", "--lr_g=5e-4", "--lr_d=5e-4"]
NEVER = 10**9

# name: (pictures, how many, epochs, epochs between scores, words, what is wrong or "")
RUNS: dict[str, tuple[str, int, int, int, list[str], str]] = {
    "quick": ("faces", 4000, 24, 2, QUICK, ""),
    "default": ("faces", 4000, 120, 10, PLAIN, ""),
    "default, avatars": ("avatars", 4000, 120, 10, PLAIN, ""),
    "quick, avatars": ("avatars", 4000, 24, 2, QUICK, ""),
    "default, g_every=1": ("faces", 4000, 80, 8, [*PLAIN, "--g_every=1"], ""),
    "quick, no average": ("faces", 4000, 24, 2, [*QUICK, "--ema=0"], ""),
    "quick, both rates × 50": ("faces", 4000, 24, 2, [*QUICK, "--lr_g=0.01", "--lr_d=0.01"], ""),
    "quick, lr_g × 50": ("faces", 4000, 24, 2, [*QUICK, "--lr_g=0.01"], ""),
    "quick, lr_d × 50": ("faces", 4000, 24, 2, [*QUICK, "--lr_d=0.01"], ""),
    "default, batch 64": ("faces", 4000, 100, 8, SMALLER, ""),
    "default, batch 64, avatars": ("avatars", 4000, 100, 8, SMALLER, ""),
    "default, batch 64, both rates × 50": (
        "faces", 4000, 100, 8, [*SMALLER, "--lr_g=0.01", "--lr_d=0.01"], "diverged",
    ),
    "default, batch 64, lr_g × 50": ("faces", 4000, 100, 8, [*SMALLER, "--lr_g=0.01"], ""),
    "default, batch 64, lr_d × 50": (
        "faces", 4000, 100, 8, [*SMALLER, "--lr_d=0.01"], "diverged",
    ),
    "quick, then lr_g × 500": ("faces", 4000, 24, 2, [*QUICK, "then", "--lr_g=0.1"], "collapsed"),
    "D without updates": (
        "faces", 4000, 16, 1, [*QUICK, f"--d_every={NEVER}"], "discriminator beaten",
    ),
    "G without updates": ("faces", 4000, 120, 10, [*PLAIN, f"--g_every={NEVER}"], "no turns"),
    "rates × 1e-5": (
        "faces", 4000, 24, 2, [*QUICK, "--lr_g=2e-9", "--lr_d=2e-9"], "nothing improves",
    ),
    "rates × 1e6": ("faces", 4000, 24, 2, [*QUICK, "--lr_g=200", "--lr_d=200"], "diverged"),
    "rates × 1e34": ("faces", 4000, 24, 2, [*QUICK, "--lr_g=2e30", "--lr_d=2e30"], "not finite"),
    "five pictures": ("faces", 5, 6000, 500, QUICK, "nothing improves"),
    "20 pictures": ("faces", 20, 6000, 500, TWENTY, "copies"),
    "50 pictures": ("faces", 50, 4000, 300, QUICK, "nothing improves"),
}  # fmt: skip


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "GAN.py", *words]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    print(done.stdout[-2000:], done.stderr[-500:])
    return done


def save_pictures(data: Tensor, n: int, folder: Path) -> None:
    """Write n of the pictures (N, S, S, 3) as PNG files."""
    folder.mkdir()
    for i, picture in enumerate(data[: len(data) // n * n : len(data) // n]):
        Image.fromarray(picture.numpy()).save(folder / f"{i:05}.png")


def history_of(out: Path) -> list[dict[str, Any]]:
    """The rows of losses.csv with numbers in them, None where there was none."""
    with open(out / "losses.csv") as file:
        rows = [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)
        ]
    return [{**row, "epoch": int(row["epoch"] or 0)} for row in rows]


def all_remarks(history: list[dict[str, Any]], step: int) -> list[str]:
    """Everything that is said in the course of a history, with the epoch."""
    said = []
    for i, row in enumerate(history, 1):
        if row["score"] is not None:
            said += [f"epoch {row['epoch']}: {text}" for text in remarks(history[:i], step)]
    return said


def interleaving(history: list[dict[str, Any]]) -> tuple[float, float] | None:
    """How much the losses alternate, which one of the five reports takes for a good sign: the share
    of epochs in which one rises as the other falls, and the share in which their curves cross.
    """
    pairs = [(r["loss_d"], r["loss_g"]) for r in history if None not in (r["loss_d"], r["loss_g"])]
    if len(pairs) < 3:
        return None
    steps = list(pairwise(pairs))
    opposite = sum((d2 - d1) * (g2 - g1) < 0 for (d1, g1), (d2, g2) in steps)
    crossed = sum((d1 - g1) * (d2 - g2) < 0 for (d1, g1), (d2, g2) in steps)
    return round(opposite / len(steps), 3), round(crossed / len(steps), 3)


def thin(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with a score, and as many others as make 200."""
    step = len(history) // 200 + 1
    return [row for i, row in enumerate(history) if row["score"] is not None or i % step == 0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, nargs="?")
    parser.add_argument("avatars", type=Path, nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--add", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    if args.add:
        about = json.loads((args.add / "settings.json").read_text())
        added: dict[str, Any] = {"pictures": f"{about['pictures']} faces", "fault": "", "ended": ""}
        added["step"] = about["settings"]["batch_size"] * about["settings"]["g_every"]
        results["runs"][args.add.name] = added | {"history": thin(history_of(args.add))}
    if not (args.add or args.again):
        results |= {"command": "python bench/health.py FACES AVATARS", "cpu": cpu_name()}
        results |= {"torch": torch.__version__, "python": sys.version.split()[0]}
    for name, (kind, n, epochs, every, words, fault) in RUNS.items():
        if args.again or args.add or (args.only not in name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder) / "data", Path(folder) / "img"
            data, _ = GAN.load_pictures(getattr(args, kind).absolute(), 48, Path(folder))
            save_pictures(data, n, root)
            words = [*words, f"--data_dir={root}", f"--img_dir={out}", f"--n_epoch={epochs}"]
            words.append(f"--score_every={every}")
            print("+", name, flush=True)
            if "then" in words:
                at = words.index("then")
                run(
                    [*words[:at], *words[at + 2 :], f"--n_epoch={epochs // 2}"]
                )  # without that word
                words.remove("then")
            done = run(words)
            row: dict[str, Any] = {
                "pictures": f"{n} {kind}",
                "fault": fault,
                "ended": done.stderr[-300:],
            }
            about = json.loads((out / "settings.json").read_text())["settings"]
            row["step"] = min(about["batch_size"], n) * about["g_every"]
            row["history"] = thin(history_of(out)) if (out / "losses.csv").exists() else []
            results["runs"][name] = row
            if os.environ.get("KEEP"):
                Path(out).rename(Path(os.environ["KEEP"]) / name.replace(" ", "_"))
        RESULTS.write_text(json.dumps(results) + "\n")
    for name, one in results["runs"].items():
        one["remarks"] = all_remarks(one["history"], one["step"])
        one["interleaving"] = interleaving(one["history"])
        scores = [row["score"] for row in one["history"] if row["score"] is not None]
        print(f"\n{name} ({one['fault'] or 'healthy'}): scores {scores}")
        print(f"interleaving {one['interleaving']}", *one["remarks"], sep="\n  ")
    RESULTS.write_text(json.dumps(results) + "\n")
    draw_figure(results["runs"])


def draw_figure(runs: dict[str, Any]) -> None:
    """Losses and scores over the pictures seen, of the healthy runs on faces."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = figure.subplots(3, sharex=True)
    shown = [n for n, run in runs.items() if not run["fault"] and "faces" in run["pictures"]]
    for i, name in enumerate(shown):
        for part, measure in zip(axes, ("loss_d", "loss_g", "score"), strict=True):
            rows = [row for row in runs[name]["history"] if row[measure] is not None]
            x, y = ([row[key] for row in rows] for key in ("images", measure))
            part.plot(x, y, f"C{i}", marker="." if measure == "score" else "", label=name)
            part.set(ylabel=measure, xscale="log")
            part.grid(alpha=0.3)
    axes[2].set(xlabel="pictures seen", yscale="log")
    axes[0].legend(fontsize=8)
    figure.savefig(HERE.parent / "img" / "report" / "scores.png", dpi=100)


if __name__ == "__main__":
    main()
