"""How long from `python GAN.py` to the first step, and how fast are pictures read?

    python bench/startup.py FOLDER [--rounds=3]       into results/startup-*.json

FOLDER holds pictures or zip files of them. In turn, round by round:

  decoding, one core     every picture decoded in one process, nothing kept
  decoding, all cores    the same in as many processes as there are cores
  reading                load_pictures() without a cache, which it writes
  import torch           in a new process
  first start            a new process of GAN.py, without a cache, until its first step begins
  second start           the same with the cache
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
SIDE = 96


def decode(root: Path, processes: int) -> None:
    """Decode every picture in so many forked processes."""
    import pictures

    members = pictures.list_members(root, pictures.list_files(root))
    children = []
    for k in range(processes):
        if child := os.fork():
            children.append(child)
            continue
        for name, member in members[k::processes]:
            file: Any = root / name
            if member:
                file = io.BytesIO(pictures.open_zip(file).read(member))
            pictures.decode(file, SIDE)
        os._exit(0)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def read(root: Path) -> None:
    import GAN

    forget(root)
    GAN.load_pictures(root, SIDE, root)


def forget(root: Path) -> None:
    for path in root.glob(".GAN-*.cache"):
        path.unlink()


def new_process(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def until_first_step(words: list[str]) -> None:
    """In a process of its own: run GAN.py with these words and leave when a step begins."""
    import GAN

    GAN.d_step = lambda *args: os._exit(0)  # type: ignore[assignment]
    sys.argv[1:] = words
    GAN.main()


def start(root: Path, cached: bool) -> None:
    if not cached:
        forget(root)
    with tempfile.TemporaryDirectory() as out:
        new_process(__file__, "--until-first-step", f"--data_dir={root}", f"--img_dir={out}")


def main() -> None:
    if sys.argv[1:2] == ["--until-first-step"]:
        until_first_step(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "pictures").symlink_to(args.folder.resolve())  # the cache stays out of the folder
        cores = os.cpu_count() or 1
        measures: dict[str, Callable[[], None]] = {
            "decoding, one core": partial(decode, root, 1),
            "decoding, all cores": partial(decode, root, cores),
            "reading": partial(read, root),
            "import torch": partial(new_process, "-c", "import torch"),
            "first start": partial(start, root, cached=False),
            "second start": partial(start, root, cached=True),
        }
        import GAN
        import pictures

        n = len(pictures.list_members(root, pictures.list_files(root)))
        times: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(args.rounds):
            for name, measure in measures.items():
                began = time.perf_counter()
                measure()
                times[name].append(time.perf_counter() - began)
                print(f"{name:20} {times[name][-1]:7.2f} s", flush=True)
    seconds = {name: statistics.median(spent) for name, spent in times.items()}
    print(f"\n{n:,} pictures, {cores} cores; medians of {args.rounds}:")
    for name, spent in seconds.items():
        rate = f"{n / spent:8,.0f} pictures/s" if "ing" in name else ""
        print(f"{name:20} {spent:7.2f} s {rate}")
    from speed import cpu_name

    about = {"command": f"python bench/startup.py FOLDER --rounds={args.rounds}", "pictures": n}
    about |= {"cpu": cpu_name(), "cores": cores, "date": time.ctime()}
    about |= {"torch": GAN.torch.__version__, "python": platform.python_version()}
    name = cpu_name().split(" x ")[0].replace(" ", "-").replace("(R)", "")
    precision = str(GAN.choose_machine("cpu", "auto").dtype)[6:]  # tells older cores from newer
    path = HERE / "results" / f"startup-{name}-{precision}.json"
    path.write_text(json.dumps(about | {"seconds": seconds, "all": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
