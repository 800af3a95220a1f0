"""Which settings draw the best faces in the same time?

    python bench/search.py FACES NAME [recipe.py] --minutes=10 [--name=value ...]
    python bench/search.py --table                       what came out so far, for report.md

FACES is a folder or zip file of pictures. 5,000 of them, always the same, are held back; GAN.py
learns from the others with the words after NAME (with --pictures=2000 before NAME from only so
many), and its generator is measured against those that it has never seen:

- distance: Fréchet distance of 5,000 drawn pictures on the last features (1,280) of
  EfficientNet-Lite0 at 224×224 (bench/score.py's "FD, head, 224"); its floor is that of 5,000
  training pictures (with --pictures=2000 of those, which makes it higher);
- score: the same with evaluate.py's lite0, with its floor;
- copies: how far the nearest training picture lies from a drawn one, mirrored or not, in units of
  how far it lies from a held-back one (medians of 500, as novelty in losses.csv, on thumbnails of
  16×16): well below 1, the generator has learnt pictures by heart, draws plainer faces than real
  ones, or none yet (grey is near to everything);
- learnt: the share of the drawn pictures whose nearest one, among as many training pictures as held
  back ones (5,000 each, or 2,000), is of those it learnt from: 0.5 if it knows them no better than
  others, however plain it draws; give or take 0.04, as some 150 plain pictures get most of the
  hits (rows since 2026-11-28).

A row goes to results/search.jsonl, with the settings that are not GAN.py's own (its words mean the
recipe as it was that day); the run stays in img/search/NAME. Matched experiments run one at a time
on each core.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import score  # noqa: E402
from ema import feature_network  # noqa: E402

import evaluate  # noqa: E402
import GAN  # noqa: E402
import pictures  # noqa: E402
from speed import cpu_name  # noqa: E402

N = 5000  # held back, and drawn
RESULTS = HERE / "results" / "search.jsonl"
PLACE = HERE.parent / "img" / "search"


def split(faces: Path, n: int) -> tuple[Path, Path]:
    """Zip files of the pictures to learn from (n of them; 0: all) and of those that are held back;
    made once, and in the same order on every machine.
    """
    files = pictures.list_files(faces, leave_out=[PLACE])
    folder = faces if faces.is_dir() else faces.parent
    members = pictures.list_members(folder, files)
    if len(members) <= N:
        sys.exit(
            f"{faces} holds {len(members):,} pictures: {N:,} are held back, and more are needed"
        )
    key = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(7)).tolist()
    parts = {f"train-{n or 'all'}": order[N:][: n or None], "held-back": order[:N]}
    found = []
    for name, indices in parts.items():
        found.append(path := PLACE / f"{name}-of-{key}.zip")
        if path.exists():
            continue

        def write(file: Any, indices: list[int] = indices) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                for i in indices:
                    path, inner = folder / members[i][0], members[i][1]
                    data = pictures.open_zip(path).read(inner) if inner else path.read_bytes()
                    archive.writestr(f"{i:06d}{Path(inner or path).suffix}", data)

        GAN.write_file(path, write)
    return found[0], found[1]


class Judge:
    """Measures generators against pictures that they have never seen."""

    def __init__(self, train: Path, held: Path, side: int) -> None:
        self.machine = GAN.choose_machine("auto", "auto")
        self.train, _ = GAN.load_pictures(train, side, PLACE)
        self.held, _ = GAN.load_pictures(held, side, PLACE)
        self.head = feature_network()
        self.lite0 = evaluate.load_network("lite0", "", self.machine)
        about = PLACE / f"{train.stem}-{side}.pt"
        if not about.exists():
            real = [self.features(x.split(100)) for x in (self.held, self.train[:N])]
            GAN.write_file(about, lambda file: torch.save(real, file))
        self.real, other = torch.load(about, weights_only=True)
        self.floors = self.distances(other)

    def features(self, batches: Iterable[Tensor]) -> list[Tensor]:
        """Of pictures, uint8 (N, S, S, 3): those of the head at 224×224, and those of lite0."""
        heads = []

        def seen() -> Iterator[Tensor]:
            for batch in batches:
                real = GAN.to_real(batch.cpu(), score.CPU)
                heads.append(score.features(self.head, real, 224)["head"])
                yield batch

        (lite0,) = evaluate.look(self.lite0, seen(), N, "features")
        return [torch.cat(heads), lite0]

    def distances(self, features: list[Tensor]) -> list[float]:
        return [
            evaluate.frechet(*map(evaluate.statistics, pair))
            for pair in zip(features, self.real, strict=True)
        ]

    def __call__(self, path: Path) -> dict[str, float]:
        gen, settings = evaluate.load_generator(path)
        rng = torch.Generator().manual_seed(3)
        noise = torch.randn(N, settings["noise_size"], 1, 1, generator=rng)
        drawn = torch.cat(list(evaluate.draw(gen.to(self.machine.device), noise))).cpu()
        found = self.distances(self.features(drawn.split(100))) + self.floors
        known = evaluate.thumbnails(self.train)
        one, other = (
            evaluate.nearest_pictures(x[:500], known)[0].median() for x in (drawn, self.held)
        )
        n = min(len(self.train), len(self.held))
        as_many = torch.cat([known[:n], evaluate.thumbnails(self.held[:n])])
        _, index, _ = evaluate.nearest_pictures(drawn, as_many)
        names = ["distance", "score", "distance_floor", "score_floor", "copies", "learnt"]
        found += [float(one / other), float((index < n).float().mean())]
        return {name: round(value, 3) for name, value in zip(names, found, strict=True)}


def try_out(faces: Path, n: int, name: str, words: list[str]) -> None:
    """Train with these words, measure, keep the row and print it."""
    train, held = split(faces, n)
    out = PLACE / name
    command = [sys.executable, str(HERE.parent / "GAN.py"), *words]
    command += [f"--data_dir={train}", f"--img_dir={out}", "--fresh=True", "--score_by=none"]
    subprocess.run(command, check=True)
    settings = json.loads((out / "settings.json").read_text("utf-8"))["settings"]
    plain = GAN.settings_now() | {key: settings[key] for key in ("data_dir", "img_dir")}
    own = {name: value for name, value in settings.items() if value != plain[name]}
    with open(out / "losses.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    row: dict[str, Any] = {"name": name, "words": " ".join(words), "faces": n or "all"}
    row |= {"seed": settings["seed"], "minutes": round(float(last["seconds"]) / 60, 2)}
    row |= {"settings": own, "pictures": int(last["images"]), "epochs": int(last["epoch"])}
    row |= Judge(train, held, settings["image_size"])(out / "generator.pt")
    row |= {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
    row |= {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def table() -> None:
    """All rows as a table in Markdown."""
    names = ["name", "words", "faces", "seed", "minutes", "pictures", "distance", "distance_floor"]
    names += ["score", "score_floor", "copies", "learnt", "cpu", "cores", "date", "settings"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for line in RESULTS.read_text("utf-8").splitlines():
        row = json.loads(line)
        print(f"| {' | '.join(str(row.get(name, '')) for name in names)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("faces", type=Path, nargs="?")
    parser.add_argument("name", nargs="?")
    args, words = parser.parse_known_args()
    if args.table:
        table()
    elif not args.name:
        parser.error("FACES and NAME are missing")
    else:
        try_out(args.faces.resolve(), args.pictures, args.name, words)


if __name__ == "__main__":
    main()
