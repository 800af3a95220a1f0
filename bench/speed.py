"""How fast does GAN.py train, beside the tutorials' loop and beside what the machine could do?

    python bench/speed.py [--only=NAME] [--rounds=3] [--device=auto]     into results/speed-*.json

For each system (image size, feature maps, batch), in a process of its own, this times in turn,
round by round:

  GAN.py      the functions that train() calls, with the machine's own precision and layout
  variants    the same in other precisions and layouts (the first system only), and with networks
              fused by torch.compile (--compiled), which takes a minute or more before it starts
  plain       the tutorials' loop: float32, real and fake pictures in two passes, .item() after
              each step, glibc's usual memory, pictures ready in memory
  plain+files the same, fed by a DataLoader with one worker that decodes JPEGs, as people run it

and states the limit: the arithmetic of a step (counted by torch's FlopCounterMode) at the rate of a
large matrix product in that precision, measured here. Bytes are those that the step's operations
read and write one by one; fused operations need fewer.

A step of D and a step of G are timed apart; pictures per second follow from d_every and g_every.
On a CPU, wide systems run at a smaller batch than they are known for; the table says so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import GAN  # noqa: E402

# name: image_size, feature maps of both, batch, g_every, batch norm in D, batch on a CPU
SYSTEMS: dict[str, tuple[int, int, int, int, str, int]] = {
    "96/32/256": (96, 32, 256, 5, "none", 256),  # the report: GAN.py's default
    "quick96": (96, 32, 64, 1, "batch", 64),  # recipes/quick96.py
    "96/128/256": (96, 128, 256, 5, "none", 16),  # the report's networks as wide as the paper's
    "64/64/128": (64, 64, 128, 1, "batch", 32),  # the PyTorch tutorial
    "128/32/256": (128, 32, 256, 5, "none", 64),
}
Steps = tuple[Callable[[], Any], Callable[[], Any]]  # one step of D, one of G


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(system: str, machine: GAN.Machine, batch: int, compiled: bool = False) -> Steps:
    """What train() does in a turn of D and in one of G, from 2,048 pictures in memory."""
    size, fm, _, g_every, norm, _ = SYSTEMS[system]
    torch.manual_seed(0)
    gen = GAN.Generator(size, 100, fm).to(machine.device)
    dis = GAN.Discriminator(size, fm, norm).to(machine.device)
    for net in (gen, dis):
        net.to(memory_format=machine.layout)  # type: ignore[call-overload]
    average = GAN.copy.deepcopy(gen).requires_grad_(False)
    cuda = machine.device.type == "cuda"
    options: dict = {"betas": (0.5, 0.999), "fused": True, "capturable": cuda}
    opt_g, opt_d = (Adam(net.parameters(), 2e-4, **options) for net in (gen, dis))
    if compiled:
        gen.compile(dynamic=False)
        dis.compile(dynamic=False)
    data = torch.randint(0, 256, (2048, size, size, 3), dtype=torch.uint8).to(machine.device)
    rng, sums = GAN.Rng(machine.device), torch.zeros(4, device=machine.device)
    order = torch.randperm(2048, device=machine.device).split(batch)

    def take_d_turn(pictures: Tensor, noise: Tensor) -> Tensor:
        return GAN.d_step(gen, dis, opt_d, machine, GAN.to_real(pictures, machine), noise)

    turns: list = [take_d_turn, partial(GAN.g_step, gen, dis, opt_g, machine)]
    if cuda and machine.dtype != torch.float16:
        turns = [GAN.Graph(turn) for turn in turns]

    def noise() -> Tensor:
        return torch.randn(batch, 100, 1, 1, generator=rng, device=machine.device)

    indices = cycle(order[: 2048 // batch])

    def d_turn() -> None:
        sums[:3] += turns[0](GAN.fetch(data, next(indices), machine.device), noise())

    def g_turn() -> None:
        sums[3] += turns[1](noise())
        GAN.update_ema(average, gen, GAN.ema_decay(50_000, 10**6, g_every * batch))

    return d_turn, g_turn


def plain(system: str, device: torch.device, batch: int, batches: Iterator[Tensor]) -> Steps:
    """The tutorials' loop: the same networks in float32, two passes of D, .item() after a step."""
    size, fm, _, _, norm, _ = SYSTEMS[system]
    torch.manual_seed(0)
    gen = GAN.Generator(size, 100, fm).to(device)
    dis = GAN.Discriminator(size, fm, norm).to(device)
    opt_g, opt_d = (Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (gen, dis))
    criterion, one, zero = nn.BCEWithLogitsLoss(), torch.ones(batch), torch.zeros(batch)
    one, zero = one.to(device), zero.to(device)
    seen: list[float] = []

    def d_turn() -> None:
        real = next(batches).to(device)
        dis.zero_grad()
        real_logits = dis(real)
        loss_real = criterion(real_logits, one)
        loss_real.backward()
        fake = gen(torch.randn(batch, 100, 1, 1, device=device))
        fake_logits = dis(fake.detach())
        loss_fake = criterion(fake_logits, zero)
        loss_fake.backward()
        opt_d.step()
        seen[:] = [(loss_real + loss_fake).item(), F.sigmoid(real_logits).mean().item()]

    def g_turn() -> None:
        gen.zero_grad()
        loss = criterion(dis(gen(torch.randn(batch, 100, 1, 1, device=device))), one)
        loss.backward()
        opt_g.step()
        seen[:] = [loss.item()]

    return d_turn, g_turn


def in_memory(batch: int, size: int) -> Iterator[Tensor]:
    pictures = torch.rand(2048 // batch * batch, 3, size, size) * 2 - 1
    while True:
        yield from pictures.split(batch)


class Files(Dataset):
    """JPEGs in a folder, read as the tutorials do."""

    def __init__(self, folder: Path, size: int) -> None:
        from torchvision import transforms

        self.files = sorted(folder.glob("*.jpg"))
        half = (0.5, 0.5, 0.5)
        steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(half, half)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        with Image.open(self.files[i]) as image:
            return self.transform(image.convert("RGB"))


def from_files(batch: int, size: int, folder: Path) -> Iterator[Tensor]:
    """Endless batches of JPEGs, decoded by one worker; first the files are made in the folder."""
    torch.manual_seed(0)
    for i in range(1024):
        rough = torch.rand(1, 3, size // 6, size // 6)
        smooth = F.interpolate(rough, (size, size), mode="bicubic")[0].clamp(0, 1)
        pixels = (smooth * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
    loader = DataLoader(Files(folder, size), batch, shuffle=True, num_workers=1, drop_last=True)
    while True:
        yield from loader


def keep_memory(kept: bool) -> None:
    """Let glibc keep freed memory, as GAN.py does, or give large blocks back, as usual."""
    if sys.platform == "linux":
        usual = ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20))  # what it adapts its limits to
        for parameter, value in ((-4, 0), (-1, -1)) if kept else usual:
            ctypes.CDLL(None).mallopt(parameter, value)


def seconds_of(step: Callable[[], Any], device: torch.device, least: float) -> float:
    """Seconds of one step: the mean over as many as fill `least` seconds, one at least."""
    sync(device)
    start, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < least:
        for _ in range(10 if device.type == "cuda" else 1):
            step()
            n += 1
        sync(device)
    return (time.perf_counter() - start) / n


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(x.nbytes for x in leaves if isinstance(x, Tensor))
        return result


def limits(machine: GAN.Machine) -> dict[str, float]:
    """Measured here: operations a second of a matrix product, bytes a second of a copy."""
    n = 8192 if machine.device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=machine.device, dtype=machine.dtype) for _ in range(2))
    big = torch.empty(2**28, dtype=torch.uint8, device=machine.device)
    other = torch.empty_like(big)
    torch.mm(a, b)
    other.copy_(big)
    product = min(seconds_of(lambda: torch.mm(a, b), machine.device, 0.5) for _ in range(3))
    copy = min(seconds_of(lambda: other.copy_(big), machine.device, 0.3) for _ in range(3))
    return {"operations_per_second": 2 * n**3 / product, "bytes_per_second": 2 * 2**28 / copy}


def measure(system: str, device: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """All contenders for one system, in turn; the medians of their rounds."""
    size, _, batch, g_every, _, small = SYSTEMS[system]
    auto = GAN.choose_machine(device, "auto")
    cpu = auto.device.type == "cpu"
    batch = small if cpu else batch
    steps: dict[str, Steps] = {"GAN.py": ours(system, auto, batch)}
    for step in steps["GAN.py"] * 4:  # CUDA graphs are made at the fourth call
        step()
    if cpu:
        unit = 1 if platform.system() == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    else:
        peak = torch.cuda.max_memory_reserved(auto.device)
    if system == "96/32/256":
        for precision in ("fp32", "bf16"):
            for layout in (torch.contiguous_format, torch.channels_last):
                dtype = torch.float32 if precision == "fp32" else torch.bfloat16
                slow = cpu and dtype == torch.bfloat16 and auto.dtype != dtype  # emulated: hours
                if (dtype, layout) != (auto.dtype, auto.layout) and not slow:
                    machine = GAN.Machine(auto.device, dtype, layout, auto.name)
                    steps[f"{precision}, {str(layout)[6:]}"] = ours(system, machine, batch)
    if compiled:
        steps["GAN.py, compiled"] = ours(system, auto, batch, compiled=True)
    steps["plain"] = plain(system, auto.device, batch, in_memory(batch, size))
    with tempfile.TemporaryDirectory() as folder:
        files = from_files(batch, size, Path(folder))
        steps["plain+files"] = plain(system, auto.device, batch, files)
        times: dict[str, list[float]] = {name: [] for name in steps}
        started = {}
        for name, pair in steps.items():
            start = time.perf_counter()
            for step in pair * (4 if not cpu else 1):
                step()
            sync(auto.device)
            started[name] = time.perf_counter() - start
        turns = tqdm(range(rounds * len(steps)), system, disable=None)
        for turn, (name, (d_turn, g_turn)) in zip(turns, list(steps.items()) * rounds, strict=True):
            turns.set_postfix_str(name)
            keep_memory("plain" not in name)
            d = seconds_of(d_turn, auto.device, 2.0)
            g = seconds_of(g_turn, auto.device, 2.0 / g_every)
            times[name].append((d + g / g_every) / batch)
            del turn
        files.close()  # type: ignore[attr-defined] # ends its worker
    counter, traffic = FlopCounterMode(display=False), Traffic()
    d_turn, g_turn = ours(
        system, GAN.Machine(torch.device("cpu"), torch.float32, auto.layout, ""), 8
    )
    work = {}
    for name, mode in (("operations", counter), ("bytes", traffic)):
        counts = []
        for step in (d_turn, g_turn):
            with mode:
                step()
            total = counter.get_total_flops() if mode is counter else traffic.bytes
            traffic.bytes = 0
            counts.append(total)
        work[name] = (counts[0] + counts[1] / g_every) / 8
    work["bytes"] /= 2 if auto.dtype != torch.float32 else 1  # counted in float32
    rates = {name: 1 / statistics.median(spent) for name, spent in times.items()}
    measured = limits(auto)
    return {
        "system": system,
        "batch": batch,
        "pictures_per_second": rates,
        "spread": {name: max(spent) / min(spent) for name, spent in times.items()},
        "warm_up_seconds": started,
        "peak_bytes": peak,
        "operations_per_picture": work["operations"],
        "bytes_per_picture": work["bytes"],
        **measured,
        "limit": measured["operations_per_second"] / work["operations"],
        "precision": str(auto.dtype)[6:],
        "machine": auto.name,
    }


def size_of_the_set(device: str) -> list[dict[str, float]]:
    """What fetching a picture costs, by the number of pictures in the set (mapped file, 64×64)."""
    machine = GAN.choose_machine(device, "auto")
    rows = []
    for n in (1_000, 30_000, 1_000_000):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(n * 64 * 64 * 3)  # a hole: nothing is read from the disk
            mapped = torch.from_file(file.name, size=n * 64 * 64 * 3, dtype=torch.uint8)
            data = GAN.to_device(mapped.view(n, 64, 64, 3), machine.device)
            order = torch.randperm(n, device=data.device)[: 256 * 40].split(256)
            for _ in range(2):  # the first brings the pages into memory
                start = time.perf_counter()
                for index in order:
                    GAN.to_real(GAN.fetch(data, index, machine.device), machine)
                sync(machine.device)
                spent = time.perf_counter() - start
            pictures_fetched = sum(map(len, order))
            rows.append({"pictures": n, "microseconds": 1e6 * spent / pictures_fetched})
            del data, mapped
    return rows


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n") if info.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{names[0]} x {torch.get_num_threads()}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[*SYSTEMS, "size"], help="one system, or the set's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile as well")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.json:  # in a process of its own: memory is counted from zero
        found: Any = (
            size_of_the_set(args.device)
            if args.only == "size"
            else measure(args.only, args.device, args.rounds, args.compiled)
        )
        print(json.dumps(found))
        return
    words = [sys.executable, __file__, "--json", f"--rounds={args.rounds}"]
    words += [f"--device={args.device}"] + ["--compiled"] * args.compiled
    results = {}
    for name in [args.only] if args.only else [*SYSTEMS, "size"]:
        done = subprocess.run([*words, f"--only={name}"], stdout=subprocess.PIPE, check=True)
        results[name] = json.loads(done.stdout)
        if name == "size":
            for row in results[name]:
                print(f"a set of {row['pictures']:9,}: {row['microseconds']:.1f} µs a picture")
            continue
        row = results[name]
        rates, limit = row["pictures_per_second"], row["limit"]
        print(f"\n{name}, batch {row['batch']}, {row['precision']} on {row['machine']}:", end=" ")
        print(f"limit {limit:,.0f} pictures/s, peak {row['peak_bytes'] / 1e9:.2f} GB")
        for contender, rate in rates.items():
            ratio, share = rate / rates["plain"], rate / limit
            print(f"  {contender:28} {rate:10,.1f} pictures/s  {ratio:6.2f} x plain  {share:4.0%}")
    about = {"command": "python bench/speed.py " + " ".join(sys.argv[1:]), "date": time.ctime()}
    about |= {"cpu": cpu_name(), "torch": torch.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    where = about.get("gpu", about["cpu"]).split(" x ")[0].replace(" ", "-").replace("(R)", "")
    path = HERE / "results" / f"speed-{where}.json"
    old = json.loads(path.read_text())["results"] if path.exists() and args.only else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about | {"results": old | results}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
