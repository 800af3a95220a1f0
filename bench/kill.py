"""Kills a training at random moments, again and again: what is lost?

    python bench/kill.py [--kills=200] [--seed=0]     into results/kill.json

A small run on avatars (32x32, dropout, noise, falling rates, mirroring; a checkpoint every 30 ms,
so that many kills strike in the middle of writing) is started, killed with SIGKILL and started
again, until it has been killed so often; whenever a run has finished, the next begins, every other
one with scores, and half of them with --fresh=True over the finished one. Of the starts, one in ten
must read its pictures anew; these and one in seven of the others are killed at any time from their
beginning. After every
kill all that lies in img_dir is read: each file must be whole, and no checkpoint may be older than
what was there before. Every finished run must equal one that nobody has killed: weights,
optimisers, random state, history and grids, bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import demo_faces  # noqa: E402
import safety  # noqa: E402
from fuzz import same  # noqa: E402
from speed import cpu_name  # noqa: E402

SETTINGS = "--device=cpu --image_size=32 --gen_fm=16 --dis_fm=16 --batch_size=16 --n_epoch=60"
SETTINGS += " --save_every=5 --flip --g_every=2 --dis_dropout=0.1 --r1=0.1"
SETTINGS += " --gp_every=3 --instance_noise=0.1 --lr_decay=cosine --checkpoint_minutes=0.0005"
SCORES = ["--score_by=none"], ["--score_by=lite0", "--score_every=20"]
CLOCK = ("seconds", "images_per_second")


def start(data: Path, out: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE.parent / "GAN.py"), *SETTINGS.split(), *words]
    command += [f"--data_dir={data}", f"--img_dir={out}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def damaged(out: Path) -> list[str]:
    """Files in out that are not whole, and what is wrong with them."""
    wrong = []
    for path in sorted(path for path in out.rglob("[!.]*") if path.is_file()):
        try:
            if path.suffix == ".pt":
                safety.read_saved(path)
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            else:
                rows = list(csv.DictReader(path.open(newline="")))
                assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
        except Exception as error:
            wrong.append(f"{path.name}: {error!r}")
    return wrong


def position(out: Path) -> tuple[int, float]:
    """Steps and seconds of training in the last checkpoint that can be read."""
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        if (out / name).exists():
            progress = safety.read_saved(out / name)["progress"]
            return progress["step"], progress["seconds"]
    return 0, 0.0


def result(out: Path) -> list[Any]:
    """All that a finished run must have in common with others of its settings."""
    saved = safety.read_saved(out / "checkpoint.pt")
    history = [
        {k: v for k, v in row.items() if k not in CLOCK} for row in saved["progress"]["history"]
    ]
    grids = {path.name: path.read_bytes() for path in out.glob("*.png") if "loss" not in path.name}
    with open(out / "losses.csv", newline="") as file:
        rows = [[row[k] for k in row if k not in CLOCK] for row in csv.DictReader(file)]
    return [saved["parts"], saved["rng"], saved["torch_rng"], history, sorted(grids.items()), rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    kinds = "kills", "before training", "while reading", "while writing", "finished runs"
    counts = dict.fromkeys(kinds, 0)
    lost: list[str] = []
    steps = []  # that a kill has cost
    with tempfile.TemporaryDirectory() as folder:
        data, out, expected, took = Path(folder, "data"), Path(folder, "out"), [], 0.0
        demo_faces.draw(data, n=160, size=768)  # large, so that reading them takes its time
        for words in SCORES:
            begun, whole = time.perf_counter(), Path(folder, words[0])
            assert start(data, whole, words).wait() == 0
            took = took or time.perf_counter() - begun
            expected.append(result(whole))
        before, kind, fresh = (0, 0.0), 0, False
        bar = tqdm(total=args.kills, unit=" kills", disable=None)
        while counts["kills"] < args.kills:
            if unread := chance.random() < 0.1:
                for cache in data.glob(".GAN-all-*.cache"):
                    cache.unlink()
            moved = any(out.glob("run-*"))
            words = SCORES[kind] + ["--fresh"] * (fresh and not moved)
            with start(data, out, words) as run:
                assert run.stdout
                early = unread or chance.random() < 0.15  # anywhere from the start of Python
                last, said = 0, ""
                while not early and "look into" not in said and (line := run.stdout.readline()):
                    said += line
                time.sleep(chance.uniform(0, 6 if early else took / 8))
                run.kill()
                said += run.stdout.read()
            if run.returncode == 0:
                counts["finished runs"] += 1
                if not same(result(out), expected[kind]):
                    lost.append(f"after {counts['kills']} kills a run ended differently")
                if fresh := not fresh:
                    for earlier in out.glob("run-*"):
                        shutil.rmtree(earlier)
                else:
                    shutil.rmtree(out)
                    kind = 1 - kind
                before = (0, 0.0)
                continue
            counts["kills"] += 1
            bar.update()
            counts["before training"] += "look into" not in said
            counts["while reading"] += any(data.glob(".*.tmp"))
            counts["while writing"] += any(out.glob(".*.tmp"))
            lost += damaged(out)
            if "Traceback" in said or run.returncode != -9:
                lost.append(said)
            now = position(out)
            if now < before and (moved or not any((*out.glob("run-*"), *out.glob(".aside")))):
                lost.append(f"from step {before[0]} back to {now[0]}")
            epochs = [line for line in said.split("\n") if line.startswith("epoch ")]
            if epochs:
                last = int(epochs[-1].split("/")[0].split()[1]) * (160 // 16)
                steps.append(max(0, last - now[0]))
            before = now
            for left in data.glob(".*.tmp"):  # GAN.py does so after an hour
                left.unlink()
        while start(data, out, SCORES[kind]).wait() != 0:
            lost.append("a run could not be finished")
        counts["finished runs"] += 1
        if not same(result(out), expected[kind]):
            lost.append("the last run ended differently")
    about = {"command": "python bench/kill.py " + " ".join(sys.argv[1:]), "date": time.ctime()}
    about |= {"cpu": cpu_name(), "torch": torch.__version__, "python": platform.python_version()}
    results = {"counts": counts, "lost": lost, "steps_behind_the_last_epoch": max(steps, default=0)}
    (HERE / "results" / "kill.json").write_text(json.dumps(about | results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
