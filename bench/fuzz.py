"""Feeds GAN.py damaged and hostile pictures, zip files, caches, checkpoints, settings and recipes.

    python bench/fuzz.py [--seconds=60] [--only=KIND] [--seed=0]     into results/fuzz.json

Every kind of input has that many seconds. What must happen is said in the function of its kind:
each input is read, skipped by name, or refused in a sentence. Anything else (another exception, a
process that dies or hangs, a damaged file that is believed) is a crash, and listed with the number
of the case, which --seed and --only bring about again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import evaluate  # noqa: E402
import GAN  # noqa: E402
import pictures  # noqa: E402
import safety  # noqa: E402
import settings  # noqa: E402
from speed import cpu_name  # noqa: E402

SIDE = 32
Case = Callable[[], str]  # tries one input: "read", "skipped" or "refused"
TINY = "--device=cpu --image_size=32 --noise_size=4 --gen_fm=2 --dis_fm=2 --batch_size=4"
TINY += " --score_by=none --save_every=1"


def mutated(whole: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Bytes with one to four faults: flipped, cut, doubled, zeroed, extreme, or from another."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        n = len(data)
        at, length = chance.randrange(n + 1), chance.choice([1, 2, 4, 8, 64, 1000])
        kind = chance.randrange(8)
        if kind == 0 and n:
            data[min(at, n - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = bytes(length)
        elif kind == 5:
            data[at : at + 4] = chance.choice(
                [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00\x00\x00\x01"]
            )
        elif kind == 6:
            data[at : at + length] = chance.randbytes(length)
        else:
            other = chance.choice(others)
            data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)


def some_pictures() -> dict[str, bytes]:
    """Small pictures of every kind that GAN.py reads."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("rgb.png", rgb, "PNG", {}),
        ("rgba.png", rgba, "PNG", {}),
        ("palette.png", rgb.quantize(9), "PNG", {"transparency": 3}),
        ("16.png", Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {}),
        ("rgb.jpg", rgb, "JPEG", {"exif": exif}),
        ("progressive.jpg", rgb, "JPEG", {"progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", {}),
        ("rgb.webp", rgb, "WEBP", {}),
        ("rgba.webp", rgba, "WEBP", {"lossless": True}),
        ("rgb.bmp", rgb, "BMP", {}),
        ("moving.gif", rgb.quantize(9), "GIF", {"save_all": True, "append_images": [grey]}),
        ("lzw.tif", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("jpeg.tif", rgb, "TIFF", {"compression": "jpeg"}),
        ("float.tif", grey.convert("F"), "TIFF", {}),
    ]
    made = {}
    for name, image, kind, options in kinds:
        image.save(file := io.BytesIO(), kind, **options)
        made[name] = file.getvalue()
    return made


def fuzz_pictures(folder: Path, chance: random.Random) -> Iterator[Case]:
    """A damaged picture is read, or skipped with its name; its row of the file is written."""
    whole = some_pictures()
    target = folder / "rows"

    def case() -> str:
        name = chance.choice(list(whole))
        (folder / name).write_bytes(mutated(whole[name], chance, list(whole.values())))
        target.write_bytes(b"")
        bad = pictures.decode_some(folder, SIDE, str(target), [(0, (name, ""))])
        assert target.stat().st_size == SIDE * SIDE * 3
        assert not bad or bad[0].startswith(f"{name}: ")
        return "skipped" if bad else "read"

    while True:
        yield case


def fuzz_zips(folder: Path, chance: random.Random) -> Iterator[Case]:
    """Of a folder with a damaged zip file and a good picture, the picture at least is read."""
    whole = some_pictures()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, (name, content) in enumerate(whole.items()):
            kind = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)[i % 3]
            archive.writestr(name, content, kind)
    root = folder / "data"
    root.mkdir()
    (root / "good.png").write_bytes(whole["rgb.png"])

    def case() -> str:
        (root / "x.zip").write_bytes(mutated(file.getvalue(), chance, [*whole.values()]))
        data, skipped = GAN.load_pictures(root, SIDE, folder / "img")
        assert data[0].numpy().tobytes() == pictures.decode(root / "good.png", SIDE)
        return "skipped" if skipped else "read"

    while True:
        yield case


def fuzz_caches(folder: Path, chance: random.Random) -> Iterator[Case]:
    """A damaged cache is refused, unless the pictures in it are what they were."""
    root = folder / "data"
    root.mkdir()
    for name, content in some_pictures().items():
        (root / name).write_bytes(content)
    data, _ = GAN.load_pictures(root, SIDE, folder / "img")
    data = data.clone()
    (cache,) = root.glob(".GAN-*.cache")
    whole = cache.read_bytes()
    key = json.loads(whole[data.numel() : -8])["key"]

    def case() -> str:
        cache.write_bytes(mutated(whole, chance, [whole]))
        found = pictures.read_cache(cache, SIDE, key)
        assert found is None or torch.equal(found[0], data)
        return "read" if found else "refused"

    while True:
        yield case


def run_main(words: list[str]) -> str:
    """What GAN.main() ends with: "" or its one message. Other exceptions pass."""
    sys.argv = ["GAN.py", *TINY.split(), *words]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        try:
            GAN.main()
        except SystemExit as end:
            assert isinstance(end.code, str) and end.code.startswith("GAN.py: "), end.code
            return end.code
    return ""


def a_run(folder: Path) -> tuple[Path, list[str]]:
    """A folder with a run of one epoch, and the words that go on with it."""
    data, out = folder / "data", folder / "img"
    data.mkdir()
    for name, content in some_pictures().items():
        (data / name).write_bytes(content)
    words = [f"--data_dir={data}", f"--img_dir={out}"]
    assert not run_main([*words, "--n_epoch=1"])
    return out, [*words, "--n_epoch=2"]


def fuzz_checkpoints(folder: Path, chance: random.Random) -> Iterator[Case]:
    """A damaged checkpoint.pt or generator.pt is refused in a sentence, or has not changed."""
    out, _ = a_run(folder)
    wholes = {name: (out / name).read_bytes() for name in ("checkpoint.pt", "generator.pt")}
    saved = {name: safety.read_saved(out / name) for name in wholes}

    def case() -> str:
        name = chance.choice(list(wholes))
        path = out / name
        path.write_bytes(mutated(wholes[name], chance, list(wholes.values())))
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                if name == "generator.pt":
                    net, _ = evaluate.load_generator(path)
                    expected = saved[name]["generator"]
                    assert all(torch.equal(v, expected[k]) for k, v in net.state_dict().items())
                    return "read"
                found = safety.load_checkpoint(out, GAN.settings_now() | saved[name]["settings"])
            except GAN.UserError:
                return "refused"
        assert found and same(found, saved[name])
        return "read"

    while True:
        yield case


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


STRANGE: list[Any] = [None, -1, 0, 2**70, 1.5, float("nan"), "x", [], {}, (), True, [{}], {"a": 1}]
STRANGE += [torch.zeros(0), torch.zeros(3), torch.zeros(2, 2, dtype=torch.long), torch.tensor(1e9)]


def fuzz_contents(folder: Path, chance: random.Random) -> Iterator[Case]:
    """A whole checkpoint with strange contents is refused in a sentence, or trained on."""
    out, words = a_run(folder)
    saved = safety.read_saved(out / "checkpoint.pt")

    def change(node: Any) -> None:
        """Replace, take away or add something in a tree of dicts and lists."""
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            inner = [key for key in keys if isinstance(node[key], (dict, list)) and node[key]]
            if inner and chance.random() < 0.75:
                node = node[chance.choice(inner)]
                continue
            key = chance.choice(keys)
            if chance.random() < 0.2:
                del node[key]
            else:
                node[key] = chance.choice(STRANGE)
            return

    def case() -> str:
        strange = copy.deepcopy(saved)
        change(strange)
        for path in out.glob("*.pt"):
            path.unlink()
        torch.save(strange, out / "checkpoint.pt")
        return "refused" if run_main(words) else "read"

    while True:
        yield case


ODD = "0 1 -1 0.5 1e5 1e999 nan inf None True no [] () '' x 1_000 0x10 -0.0 3.7 ½ ²"
VALUES = [*re.split(" ", ODD), "", " ", "=", "__import__('os')", "a" * 10_000, "[" * 5000]
VALUES += ["\0", "96 ", "ü\n"]


def fuzz_settings(folder: Path, chance: random.Random) -> Iterator[Case]:
    """Words and recipes are taken, all of them, or refused in a sentence, and none is taken."""
    names = [*settings.RULES, "", "n_epcoh", "__name__", "GAN", "data-dir", "ünï"]

    def value() -> str:
        if chance.random() < 0.2:
            return "".join(map(chr, chance.choices(range(1, 0x3000), k=chance.randrange(9))))
        return chance.choice(VALUES)

    def word() -> str:
        kind = chance.randrange(6)
        if kind == 0:
            lines = [f"{chance.choice(names)} = {value()}" for _ in range(chance.randrange(4))]
            text = "\n".join(lines).encode("utf-8", "surrogatepass")
            (folder / "r.py").write_bytes(mutated(text or b"x", chance, [b"\xff\xfe", b'"""']))
            return str(folder / "r.py")
        if kind == 1:
            return value()
        return f"--{chance.choice(names)}{chance.choice(['=', '=', '=', '', ' = '])}{value()}"

    def as_it_is() -> str:
        name = chance.choice(list(settings.RULES))
        return f"--{name}={getattr(GAN, name)}"

    def case() -> str:
        before = repr(GAN.settings_now())
        some = as_it_is if chance.random() < 0.25 else word  # of the latter, few are taken
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                GAN.read_settings([some() for _ in range(chance.randint(1, 4))])
            except GAN.UserError:
                assert repr(GAN.settings_now()) == before
                return "refused"
        for name, rule in settings.RULES.items():
            now = getattr(GAN, name)
            assert rule[0] in (type(now), object) and rule[1](now)
        return "read"

    while True:
        yield case


KINDS = {name[5:]: make for name, make in list(globals().items()) if name.startswith("fuzz_")}


def work(kind: str, seed: int, first: int, last: int, folder: str, pipe: Any) -> None:
    """In a process of its own, in a folder: try cases first to last; tells what came of each."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's warnings
    chance = random.Random()
    cases = KINDS[kind](Path(folder), chance)
    case = next(cases)
    for number in range(first, last):
        chance.seed(f"{seed} {kind} {number}")
        pipe.send((number, "begun", ""))
        try:
            pipe.send((number, case(), ""))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            pipe.send((number, "crash", f"{error!r} at {Path(where.filename).name}:{where.lineno}"))


def fuzz(kind: str, seed: int, seconds: float, most: int) -> dict[str, Any]:
    """Try inputs of a kind for some seconds, in processes of 500 cases each."""
    counts = {"tried": 0, "read": 0, "skipped": 0, "refused": 0}
    crashes: list[str] = []
    context = multiprocessing.get_context("fork")
    end, first = time.perf_counter() + seconds, 0
    bar = tqdm(desc=kind, unit=" cases", disable=None)
    while time.perf_counter() < end and first < most:
        ours, theirs = context.Pipe(duplex=False)
        last = min(first + 500, most)
        folder = tempfile.mkdtemp(prefix="GAN-fuzz-")
        worker = context.Process(target=work, args=(kind, seed, first, last, folder, theirs))
        worker.start()
        theirs.close()
        begun, number = first - 1, first - 1
        while number < last - 1 and time.perf_counter() < end:
            if not ours.poll(60):
                crashes.append(f"case {begun} hangs")
                break
            try:
                begun, what, why = ours.recv()
            except EOFError:
                worker.join()
                crashes.append(f"case {begun} ends the process: {worker.exitcode}")
                break
            if what == "begun":
                continue
            number = begun
            counts["tried"] += 1
            bar.update()
            if what == "crash":
                crashes.append(f"case {number}: {why}")
            else:
                counts[what] += 1
        worker.kill()
        worker.join()
        shutil.rmtree(folder, ignore_errors=True)
        first = begun + 1
    bar.close()
    return {**counts, "crashes": crashes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many of each kind")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fuzz.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # or forked processes would wait for threads that they lack
    results = {
        kind: fuzz(kind, args.seed, args.seconds, args.cases)
        for kind in ([args.only] if args.only else KINDS)
    }
    about = {"command": "python bench/fuzz.py " + " ".join(sys.argv[1:]), "date": time.ctime()}
    about |= {"cpu": cpu_name(), "torch": torch.__version__, "pillow": Image.__version__}
    about |= {"python": platform.python_version()}
    args.out.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    for kind, row in results.items():
        print(kind, {name: value for name, value in row.items() if name != "crashes"})
        for crash in row["crashes"][:20]:
            print("  " + crash[:300])
    sys.exit(any(row["crashes"] for row in results.values()))


if __name__ == "__main__":
    main()
