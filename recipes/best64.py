"""Faces of 64x64 within ten minutes, by networks like those of best96, which draw all of it.

From 4x4 by doublings; penalties weigh less, as there are fewer pixels. On one core of an AMD EPYC
(Zen 4, bf16, torch 2.14.1), from 23,399 drawn faces, seed 0: Fréchet distance 54.7 to 5,000 others
(EfficientNet-Lite0, floor 5.3; report.md), 228 pictures a second; on one of a Zen 3 without bf16
72.0 and 75.0, 111 and 86 a second. Growing loses here; super-resolution has not been tried.

gp_aim came later: from drawn faces loss_d does not get down to it; from avatars, after six minutes
on one core of a Zen 5 with bf16, the distance is 66.6 and the score 515, for 73.7 and 788 without
(floors 1.4 and 13; one run each), and there are beards.
"""

img_dir = "img/best64"
minutes = 10
n_epoch = 1_000_000
save_every = 2
score_every = 4

image_size = 64
flip = True
gen_fm = 16
dis_fm = 16
deep_side = 4
full_fm = 16
blocks = 1
upsample = "bilinear"
modulate = 1
bias = "outer"
init = "he"

loss = "rpgan"
batch_size = 32
g_every = 1
lr_g = 1e-3
lr_d = 1e-3
lr_by_fan_in = True
lr_decay = "linear"
beta1_g = 0
beta1_d = 0
beta2_g = 0.99
beta2_d = 0.99
ema = 20_000

r1 = 0.022
r2 = 0.022
gp_every = 16
gp_growth = 8
gp_aim = 0.3
