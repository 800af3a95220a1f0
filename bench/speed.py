"""How fast does GAN.py train, beside the tutorials' loop and beside what the machine could do?

    python bench/speed.py [--only=NAME] [--rounds=3] [--device=auto]     into results/speed-*.json
    python bench/speed.py --only=losses             what other losses, penalties and layers cost
    python bench/speed.py --only=recipes            what a picture costs with each recipe
    python bench/speed.py --only=NAME --profile     where the time goes: GAN.py and the plain loop

For each system (image size, feature maps, batch) this times in turn, round by round, each in a new
process every time (for how a process's memory happens to lie decides about a tenth of its speed):

  GAN.py      the functions that train() calls, with the machine's own precision and layout
  variants    the same in other precisions and layouts (the first system only), and with networks
              fused by torch.compile (--compiled), which takes a minute or more before it starts
  plain       the tutorials' loop: float32, real and fake pictures in two passes, .item() after
              each step, pictures ready in memory
  plain+files the same, fed by a DataLoader with one worker that decodes JPEGs, as people run it

and states the limit: the arithmetic of a step (counted by torch's FlopCounterMode) at the rate of a
large matrix product in that precision, measured here. Bytes are those that the step's operations
read and write one by one; fused operations need fewer.

Timed are whole rounds, in which every turn of D and G, with penalties and without, has its share.
On a CPU, wide systems run at a smaller batch than they are known for (recipes at 64 pictures at
most); the table says so.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from settings import read_recipe  # noqa: E402

RECIPES = sorted(path.stem for path in (HERE.parent / "recipes").glob("*.py"))

# name: image_size, feature maps of both, batch, g_every, batch norm in D, batch on a CPU
SYSTEMS: dict[str, tuple[int, int, int, int, str, int]] = {
    "96/32/256": (96, 32, 256, 5, "none", 256),  # the report: GAN.py's default
    "quick96": (96, 32, 64, 1, "batch", 64),  # recipes/quick96.py
    "96/128/256": (96, 128, 256, 5, "none", 16),  # the report's networks as wide as the paper's
    "64/64/128": (64, 64, 128, 1, "batch", 32),  # the PyTorch tutorial
    "128/32/256": (128, 32, 256, 5, "none", 64),
}
# With --only=losses, the first system with other settings:
WAYS: dict[str, dict[str, Any]] = {
    "bce": {},
    "hinge": {"loss": "hinge"},
    "wgan-gp": {"loss": "wgan-gp", "gp": 10.0},
    "bce, r1": {"r1": 1.0},
    "rpgan, r1": {"loss": "rpgan", "r1": 1.0},
    "rpgan, r1 and r2": {"loss": "rpgan", "r1": 1.0, "r2": 1.0},
    "bce, instance noise": {"instance_noise": 0.1},
    "bce, batch norm in D": {"dis_norm": "batch"},
    "bce, spectral norm in D": {"dis_norm": "spectral"},
    "bce, dropout in D": {"dis_dropout": 0.25},
    "bce, kernels of 5": {"kernel": 5},
    "bce, both by SGD": {"optim_g": "sgd", "optim_d": "sgd"},
}
MORE = ("losses", "recipes", "size")
Round = tuple[Callable[[], Any], int]  # what does all steps of a round, and how many they are


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settings_of(system: str, name: str) -> dict[str, Any]:
    """All settings of a system's contender."""
    settings = GAN.settings_now()
    if system == "recipes":
        return settings | read_recipe(f"recipes/{name}.py")
    changes: dict[str, Any] = {}
    if system == "losses":
        system, changes = next(iter(SYSTEMS)), WAYS[name]
    size, fm, batch, g_every, norm, _ = SYSTEMS[system]
    settings |= {"image_size": size, "gen_fm": fm, "dis_fm": fm, "dis_norm": norm}
    return settings | {"batch_size": batch, "g_every": g_every} | changes


def ours(
    settings: dict[str, Any], machine: GAN.Machine, batch: int, compiled: bool = False
) -> Round:
    """What train() does in a round of turns, from 2,048 pictures in memory."""
    size = settings["image_size"]
    d_every, g_every, gp_every = (settings[name] for name in ("d_every", "g_every", "gp_every"))
    torch.manual_seed(0)
    parts = GAN.build(settings, machine)
    gen, dis, average = (parts[name] for name in ("gen", "dis", "average"))
    if compiled:
        gen.compile(dynamic=False)
        dis.compile(dynamic=False)
    data = torch.randint(0, 256, (2048, size, size, 3), dtype=torch.uint8).to(machine.device)
    rng, sums = GAN.Rng(machine.device), torch.zeros(4, device=machine.device)
    order = torch.randperm(2048, device=machine.device).split(batch)
    aim = GAN.choose_objective(settings, batch, parts)
    aim.schedule(0.5)  # networks that grow have done so by now
    steps = GAN.build_steps(parts, machine, aim)

    def noise() -> Tensor:
        shape = (batch, settings["noise_size"], 1, 1)
        return torch.randn(shape, generator=rng, device=machine.device)

    pictures = GAN.read_ahead(data, cycle(order[: 2048 // batch]), machine.device)

    n = math.lcm(g_every, d_every * gp_every)

    def steps_of_a_round() -> None:
        for k in range(1, n + 1):
            d, g = k % d_every == 0, k % g_every == 0
            real = [next(pictures)] if d or (g and aim.paired) else []
            if d or g:
                penalties = d and k // d_every % gp_every == 0
                sums.add_(steps[d, penalties, g](noise(), *real))
            if g:
                GAN.update_ema(average, gen, GAN.ema_decay(50_000, 10**6, g_every * batch))

    return steps_of_a_round, n


def plain(system: str, device: torch.device, batch: int, batches: Iterator[Tensor]) -> Round:
    """The tutorials' loop: the same networks in float32, two passes of D, .item() after a step."""
    size, fm, _, g_every, norm, _ = SYSTEMS[system]
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

    def steps_of_a_round() -> None:
        for _ in range(g_every):
            d_turn()
        g_turn()

    return steps_of_a_round, g_every


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


def contenders(system: str, auto: GAN.Machine, compiled: bool) -> list[str]:
    if system in ("losses", "recipes"):
        return list(WAYS) if system == "losses" else RECIPES
    names = ["GAN.py", *["GAN.py, compiled"] * compiled, "plain", "plain+files"]
    if system == "96/32/256":
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for layout in (torch.contiguous_format, torch.channels_last):
                emulated = (
                    dtype != torch.float32 and auto.device.type == "cpu" and auto.dtype != dtype
                )
                if (dtype, layout) != (auto.dtype, auto.layout) and not emulated:
                    names.append(f"{precision}, {str(layout)[6:]}")
    return names


def contend(system: str, auto: GAN.Machine, name: str) -> None:
    """One contender in its own process: builds, warms up, and prints how long a picture takes."""
    settings, device = settings_of(system, name), auto.device
    size, batch = settings["image_size"], settings["batch_size"]
    if device.type == "cpu" and system != "losses":
        batch = min(batch, 64) if system == "recipes" else SYSTEMS[system][-1]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if name == "plain":
            turns, n = plain(system, device, batch, in_memory(batch, size))
        elif name == "plain+files":
            turns, n = plain(system, device, batch, from_files(batch, size, Path(folder)))
        elif name.startswith("GAN.py"):
            turns, n = ours(settings, auto, batch, compiled=name != "GAN.py")
        elif name in (*WAYS, *RECIPES):
            turns, n = ours(settings, auto, batch)
        else:
            dtype = torch.float32 if name.startswith("fp32") else torch.bfloat16
            layout = getattr(torch, name.split(", ")[1])
            other = GAN.Machine(device, dtype, layout, auto.name, auto.graphs)
            turns, n = ours(settings, other, batch)
        for _ in range(1 if device.type == "cpu" else 4):  # CUDA graphs: at the fourth call
            turns()
        sync(device)
        unit = 1 if platform.system() == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(device)
        about = {"ready_seconds": time.perf_counter() - start, "peak_bytes": peak, "batch": batch}
        spent = seconds_of(turns, device, 4.0) / (n * batch)
        print(json.dumps(about | {"seconds_per_picture": spent}))


def count(system: str, auto: GAN.Machine) -> dict[str, float]:
    """Operations and bytes of a picture, and what this machine does of them in a second."""
    counter, traffic = FlopCounterMode(display=False), Traffic()
    cpu = GAN.Machine(torch.device("cpu"), torch.float32, auto.layout, "")
    turns, n = ours(settings_of(system, ""), cpu, 8)
    with counter:
        turns()
    with traffic:
        turns()
    operations = counter.get_total_flops() / (8 * n)
    work = {"operations_per_picture": operations}
    work["bytes_per_picture"] = traffic.bytes / (8 * n) * auto.dtype.itemsize / 4
    measured = limits(auto)
    return work | measured | {"limit": measured["operations_per_second"] / operations}


def measure(system: str, device: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """All contenders for one system, in turn; the medians of their rounds."""
    auto = GAN.choose_machine(device, "auto")
    command = [sys.executable, __file__, f"--only={system}", f"--device={device}", "--contender"]
    ready: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    turns = [name for _ in range(rounds) for name in contenders(system, auto, compiled)]
    for name in tqdm(turns, system, disable=None):
        ready[name] = json.loads(subprocess.check_output([*command, name]))
        times.setdefault(name, []).append(ready[name].pop("seconds_per_picture"))
    rates = {name: 1 / statistics.median(spent) for name, spent in times.items()}
    row = {"pictures_per_second": rates, "seconds_per_picture": times, "ready": ready}
    about = {"precision": str(auto.dtype)[6:], "machine": auto.name}
    row |= about | {"batch": next(iter(ready.values()))["batch"]}
    return row if system in ("losses", "recipes") else row | count(system, auto)


GROUPS = {  # what the profile adds up, by the beginnings of operations' names
    "convolutions, backward": ("convolution_backward",),
    "convolutions": ("mkldnn_convolution", "cudnn_convolution_", "cudnn_convolution"),
    "transposed convolutions": ("_convolution", "cudnn_convolution_transpose", "slow_conv_trans"),
    "activations": ("leaky_relu", "relu", "clamp_min", "threshold", "tanh"),
    "batch norm": ("native_batch_norm", "cudnn_batch_norm"),
    "optimiser and average": ("_fused_adam", "_foreach", "lerp", "addcdiv", "addcmul", "sqrt"),
}


def profiled(system: str, machine: GAN.Machine, name: str) -> dict[str, float]:
    """Milliseconds by group for a round of turns."""
    from torch.profiler import ProfilerActivity, profile

    size, _, batch, _, _, small = SYSTEMS[system]
    cuda = machine.device.type == "cuda"
    batch = batch if cuda else small
    if name == "plain":
        turns, _ = plain(system, machine.device, batch, in_memory(batch, size))
    else:
        turns, _ = ours(settings_of(system, name), machine, batch)
    for _ in range(5):
        turns()
    sync(machine.device)
    start = time.perf_counter()
    turns()
    sync(machine.device)
    spent = {"the clock, not profiled": 1000 * (time.perf_counter() - start)}
    kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=kinds) as profiler:
        turns()
        sync(machine.device)
    for event in profiler.key_averages():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        operation = event.key.removeprefix("aten::")
        fitting = [
            (len(s), g) for g, starts in GROUPS.items() for s in starts if operation.startswith(s)
        ]
        group = max(fitting)[1] if fitting else "the rest"
        spent[group] = spent.get(group, 0) + own / 1000
    return spent


def size_of_the_set(device: str) -> list[dict[str, float]]:
    """What fetching a picture costs, by the number of pictures in the set (mapped file, 64×64)."""
    machine = GAN.choose_machine(device, "auto")
    rows = []
    for n in (1_000, 30_000, 1_000_000):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(n * 64 * 64 * 3)  # a hole: nothing is read from the disk
            mapped = torch.from_file(file.name, size=n * 64 * 64 * 3, dtype=torch.uint8)
            data = mapped.view(n, 64, 64, 3)
            order = torch.randint(n, (256 * 40,)).split(256)
            for _ in range(2):  # the first brings the pages into memory
                start = time.perf_counter()
                for pictures in GAN.read_ahead(data, order, machine.device):
                    GAN.to_real(pictures, machine)
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
    parser.add_argument("--only", choices=[*SYSTEMS, *MORE], help="one of these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile as well")
    parser.add_argument("--profile", action="store_true", help="where the time of --only goes")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        if args.contender.startswith("plain"):  # as torch comes, with glibc's usual memory
            kind = args.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
            machine = GAN.Machine(torch.device(kind), torch.float32, torch.contiguous_format, "")
        else:
            machine = GAN.choose_machine(args.device, "auto")
        if args.profile:
            print(json.dumps(profiled(args.only, machine, args.contender)))
        else:
            contend(args.only, machine, args.contender)
        return
    if args.profile:
        system = args.only or "96/32/256"
        command = [sys.executable, __file__, f"--only={system}", f"--device={args.device}"]
        both = [
            json.loads(subprocess.check_output([*command, "--profile", f"--contender={name}"]))
            for name in ("plain", "GAN.py")
        ]
        print(f"{system}: ms for {SYSTEMS[system][3]} steps of D and one of G    plain     GAN.py")
        for group in sorted(both[0].keys() | both[1].keys(), key=lambda g: -both[0].get(g, 0)):
            print(f"  {group:46} {both[0].get(group, 0):8.1f}   {both[1].get(group, 0):8.1f}")
        return
    results: dict[str, Any] = {}
    for name in [args.only] if args.only else [*SYSTEMS, *MORE]:
        if name == "size":
            results[name] = size_of_the_set(args.device)
        else:
            results[name] = measure(name, args.device, args.rounds, args.compiled)
        if name == "size":
            for row in results[name]:
                print(f"a set of {row['pictures']:9,}: {row['microseconds']:.1f} µs a picture")
            continue
        row = results[name]
        rates, limit = row["pictures_per_second"], row.get("limit")
        base = {"losses": "bce", "recipes": "report96"}.get(name, "plain")
        print(f"\n{name}, batch {row['batch']}, {row['precision']} on {row['machine']}", end="")
        print(f": limit {limit:,.0f} pictures/s" if limit else "")
        for contender, rate in rates.items():
            ratio, peak = rate / rates[base], row["ready"][contender]["peak_bytes"] / 1e9
            print(f"  {contender:24} {rate:9,.1f} pictures/s  {ratio:5.2f} x {base}", end="")
            print(f"  {rate / limit:4.0%} of the limit" if limit else "", f" {peak:5.2f} GB")
    run = {"command": shlex.join(["python", "bench/speed.py", *sys.argv[1:]]), "date": time.ctime()}
    run |= {"torch": torch.__version__}
    runs = {name: {**run} for name in results}
    about: dict[str, Any] = {"runs": runs}
    about["precision"] = str(GAN.choose_machine(args.device, "auto").dtype)[6:]
    about |= {"cpu": cpu_name(), "torch": torch.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    where = about.get("gpu", about["cpu"]).split(" x ")[0].replace(" ", "-").replace("(R)", "")
    path = HERE / "results" / f"speed-{where}-{about['precision']}.json"
    if path.exists() and args.only:
        old = json.loads(path.read_text())
        results = old.pop("results") | results
        about = old | {"runs": old.get("runs", {}) | runs}  # each run says what differs
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
