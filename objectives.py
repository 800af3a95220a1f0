"""What GAN.py can train for beside the report's binary cross entropy.

Losses take logits (N,) to a number; penalties are on the discriminator's gradient; augmented()
changes what the discriminator sees. choose() builds the Objective that the settings ask for, and
Schedule changes rates, noise and the penalties' weights in the course of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from GAN import Objective, UserError, bce_d

# ---- losses --------------------------------------------------------------------------------------


def smooth_bce_d(real_logits: Tensor, fake_logits: Tensor, smoothing: float) -> Tensor:
    """bce_d() with 1 - smoothing as the label of real pictures (Salimans et al. 2016, 3.4)."""
    return bce_d(real_logits, fake_logits) + smoothing * real_logits.mean()


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))) (Lim and Ye 2017, arXiv 1705.02894)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E D(G(z)) - E D(x), less a Wasserstein distance (Arjovsky et al. 2017, eq. 2)."""
    return fake_logits.mean() - real_logits.mean()


def wasserstein_g(fake_logits: Tensor) -> Tensor:
    """-E D(G(z)) (Arjovsky et al. 2017; for the hinge loss, too)."""
    return -fake_logits.mean()


def relativistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E softplus(-(D(x) - D(G(z)))) (Jolicoeur-Martineau 2018; Huang et al. 2024, eq. 2)."""
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_g(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """E softplus(-(D(G(z)) - D(x))): the same with the roles exchanged.

    In GAN.py, D(x) is what D said in its own turn, before it learnt from it: a pass saved, where
    Huang et al. ask D anew.
    """
    return F.softplus(real_logits - fake_logits).mean()


# ---- penalties -----------------------------------------------------------------------------------


def squared_gradient(dis: Module, pictures: Tensor) -> Tensor:
    """|∇D(x)|² at each of the pictures (N, 3, S, S): (N,), to be differentiated in turn."""
    x = pictures.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(dis(x).sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def zero_centred(dis: Module, pictures: Tensor) -> Tensor:
    """½ E |∇D(x)|²: R1 at real pictures, R2 at drawn ones (Mescheder et al. 2018, eq. 9)."""
    return squared_gradient(dis, pictures).mean() / 2


def one_centred(dis: Module, real: Tensor, fake: Tensor) -> Tensor:
    """E (|∇D(x)| - 1)² at random points between real and drawn pictures (N, 3, S, S), WGAN-GP's
    (Gulrajani et al. 2017, eq. 3).
    """
    between = torch.lerp(fake, real, torch.rand(len(real), 1, 1, 1, device=real.device))
    norm = (squared_gradient(dis, between) + 1e-12).sqrt()  # whose slope is infinite at 0
    return (norm - 1).square().mean()


def penalty(
    gp: float, r1: float, r2: float, dis: Module, real: Tensor, fake: Tensor
) -> Tensor | float:
    """The weighted sum of one_centred(), R1 and R2; what weighs nothing is not computed."""
    total = gp * one_centred(dis, real, fake) if gp else 0.0
    total += r1 * zero_centred(dis, real) if r1 else 0.0
    return total + (r2 * zero_centred(dis, fake) if r2 else 0.0)


# ---- what the discriminator sees -----------------------------------------------------------------


def recoloured(x: Tensor) -> Tensor:
    """Pictures (N, 3, S, S), each with its own brightness (± 0.5), saturation (times 0 to 2) and
    contrast (times 0.5 to 1.5).
    """
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device).to(x.dtype)
    contrast, colour = contrast + 0.5, 2 * saturation
    # A convolution: means of three numbers that lie side by side in memory are slow.
    grey = F.conv2d(x, x.new_full((3, 3, 1, 1), 1 / 3)).to(x.dtype)
    rest = (1 - contrast) * x.mean((1, 2, 3), keepdim=True) + (brightness - 0.5)
    return torch.addcmul(torch.addcmul(rest, grey, contrast * (1 - colour)), x, contrast * colour)


class Moved(torch.autograd.Function):
    """Pictures x (N, 3, S, S), moved down and across by (2, N, 1) pixels, then 0 in a square of S/2
    that begins at hole (2, N, 1); what comes in from outside is 0, too.

    Gradients are moved back: the usual one of an index is a sum, in random order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Tensor, hole: Tensor, back: bool = False) -> Tensor:
        ctx.save_for_backward(by, hole)
        ctx.back = back
        n, c, side, _ = x.shape
        place = torch.arange(side, device=x.device)
        source = place + by if back else place - by  # where a pixel comes from
        inside = (source >= 0) & (source < side)
        moved = source if back else place  # its place in the moved picture, which has the hole
        whole = (moved < hole) | (moved >= hole + side // 2)
        seen = (whole[0, :, :, None] | whole[1, :, None]) & inside[0, :, :, None]
        first = torch.arange(n, device=x.device).view(-1, 1, 1) * side * side
        numbers = first + source[0, :, :, None] * side + source[1, :, None]
        numbers = torch.where(seen & inside[1, :, None], numbers, n * side * side)
        rows = F.pad(x.permute(0, 2, 3, 1).reshape(-1, c), (0, 0, 0, 1))  # the last is of zeros
        return rows.index_select(0, numbers.flatten()).view(n, side, side, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Moved.apply(gradient, *ctx.saved_tensors, not ctx.back), None, None, None


def shifted_and_cut(x: Tensor) -> Tensor:
    """Pictures (N, 3, S, S), each moved by up to S/8 pixels, 0 in a square of S/2 whose centre is
    anywhere in it.
    """
    most, half, shape = x.shape[-1] // 8, x.shape[-1] // 2, (2, len(x), 1)
    by = torch.randint(-most, most + 1, shape, device=x.device)
    hole = torch.randint(-(half // 2), 2 * half - half // 2, shape, device=x.device)
    return Moved.apply(x, by, hole)


def reduced(side: int, pictures: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) as (N, 3, side, side), by means of k x k pixels; k = 1: themselves."""
    k = pictures.shape[-1] // side
    return F.avg_pool2d(pictures, k) if k > 1 else pictures


def augmented(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) changed at random, so that D can't learn them by heart, real and drawn
    ones alike, so that G doesn't learn the changes (DiffAugment; Zhao et al. 2020, section 3.2).
    """
    return shifted_and_cut(recoloured(pictures))


# ---- as the settings say -------------------------------------------------------------------------

OBJECTIVES: dict[str, Objective] = {
    "bce": Objective(),
    "bce-sum": Objective(),
    "hinge": Objective(hinge_d, wasserstein_g, probable=False),
    "wgan-gp": Objective(wasserstein_d, wasserstein_g, halves=1, probable=False),
    "rpgan": Objective(relativistic_d, relativistic_g, halves=1, probable=False, paired=True),
}


def choose(settings: dict[str, Any], batch: int, parts: dict[str, Any] | None = None) -> Objective:
    """The objective of these settings, for batches of that size; UserError where they don't fit.

    parts: what GAN.build() made of them, if rates, noise, weights and networks are to change, and
    gp_weight, what the penalties are multiplied by (), to go on from that (1 without).
    """
    loss, r1, r2, every = (settings[name] for name in ("loss", "r1", "r2", "gp_every"))
    smoothing, gp, held = (settings[name] for name in ("label_smoothing", "gp", "gp_aim"))
    of_loss, wrong = OBJECTIVES[loss], []
    if loss == "wgan-gp" and not gp:
        wrong.append("loss=wgan-gp needs gp above 0: --gp=10 is the paper's")
    if loss == "rpgan" and not (r1 or r2):
        wrong.append("loss=rpgan needs r1 or r2 above 0: --r1=1 --r2=1, say (R3GAN has both)")
    if smoothing and not loss.startswith("bce"):
        wrong.append("label_smoothing is for loss=bce and loss=bce-sum")
    for name in ("gp_every", "gp_growth"):
        if settings[name] != 1 and not (gp or r1 or r2):
            wrong.append(f"{name} is for penalties: gp, r1 or r2")
    undecided = of_loss.d_loss(*torch.zeros(2, 1)).item() / of_loss.halves
    if held and not (undecided and (r1 or r2)):
        wrong.append("gp_aim is for r1 and r2, with any loss but wgan-gp")
    elif held >= undecided > 0:
        wrong.append(f"gp_aim must be below {undecided:.2g}, loss_d of a D that can tell nothing")
    if wrong:
        raise UserError("\n  ".join(wrong))
    changes: dict[str, Any] = {}
    if smoothing:
        changes["d_loss"] = partial(smooth_bce_d, smoothing=smoothing)
    if loss == "bce-sum":  # over the batch, where D takes the mean of its two sums
        changes |= {"d_weight": batch / 2, "g_weight": batch}
    if gp or r1 or r2:
        changes["penalty"] = partial(penalty, every * gp, every * r1, every * r2)
    seen = list[Callable[[Tensor], Tensor]]()
    if settings["super_res"]:
        from networks import SuperResolved  # without networks.py, choose_objective() says so

        changes["upscaling"] = SuperResolved.loss
        seen.append(partial(reduced, settings["image_size"] >> settings["super_res"]))
    if settings["augment"]:
        seen.append(augmented)
    if parts and (held or changing(settings)):
        changes["schedule"] = schedule = Schedule(settings, parts)
        if held or settings["gp_growth"] != 1:
            changes["penalty"] = partial(schedule.weighted, changes["penalty"])
        if held:
            d_loss = changes.get("d_loss", of_loss.d_loss)
            changes["d_loss"] = partial(schedule.heard, d_loss, of_loss.halves)
        if settings["instance_noise"]:
            seen.append(schedule.noisy)
    if seen:
        changes["seen"] = lambda pictures: reduce(lambda x, change: change(x), seen, pictures)
    return of_loss._replace(**changes)


def changing(settings: dict[str, Any]) -> bool:
    """Whether anything depends on how much of the run is done."""
    now = settings["lr_decay"], settings["instance_noise"], settings["grow"], settings["gp_growth"]
    return now != ("none", 0, 0, 1)


def decayed(kind: str, done: float) -> float:
    """What is left of a rate when a share `done` of a run is: of 1, "linear" or "cosine" to 0."""
    return {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[kind]


class Schedule:
    """Lets learning rates, as lr_decay says, and the noise on pictures fall to 0, the penalties'
    weights and networks grow.

    Rates that are tensors, noise and weight change in place: CUDA graphs read them there.
    """

    HASTE, MOST = 0.02, 1e4  # with gp_aim: of the weight to follow loss_d, and what it is at most

    def __init__(self, settings: dict[str, Any], parts: dict[str, Any]) -> None:
        """parts: what GAN.build() made of the settings."""
        self.kind, self.deviation = settings["lr_decay"], settings["instance_noise"]
        self.rates = [
            (group, settings[f"lr_{x}"] * group.get("share", 1))
            for x in "gd"
            for group in parts[f"opt_{x}"].param_groups
        ]
        device = next(parts["gen"].parameters()).device
        self.level, self.least = torch.tensor([self.deviation, 1.0], device=device)
        self.weight = parts.get("gp_weight", torch.ones((), device=device))
        self.growth, self.aim = settings["gp_growth"], settings["gp_aim"]
        self.stages = settings["grow"]
        self.growing = [parts[name] for name in ("gen", "dis", "average")] if self.stages else []

    def __call__(self, done: float) -> None:
        """Set everything to what it is when a share `done` of the run is."""
        for group, rate in self.rates if self.kind != "none" else ():
            now = rate * decayed(self.kind, done)
            group["lr"] = group["lr"].fill_(now) if isinstance(group["lr"], Tensor) else now
        self.level.fill_(self.deviation * (1 - done))
        (self.least if self.aim else self.weight).fill_(self.growth**done)
        for net in self.growing:
            while net.left > max(0, math.ceil(self.stages * (1 - 2 * done))):
                net.grow()

    def heard(self, d_loss: Callable[..., Tensor], halves: int, *logits: Tensor) -> Tensor:
        """D's loss; where it is below gp_aim, penalties weigh more from here on, else less."""
        loss = d_loss(*logits)
        more = (self.HASTE * (self.aim - loss.detach() / halves)).exp()
        self.weight.copy_((self.weight * more).clamp(max=self.MOST).maximum(self.least))
        return loss

    def weighted(self, penalty: Callable[..., Tensor], *about: Any) -> Tensor:
        """A penalty with the weight that it has by now."""
        return self.weight * penalty(*about)

    def noisy(self, pictures: Tensor) -> Tensor:
        """Pictures as the discriminator sees them (Sønderby et al. 2017)."""
        return pictures + self.level * torch.randn_like(pictures)
