"""best64 at 128x128, in half an hour: the first half of it is spent on pictures of 64x64.

grow = 1: networks of 64x64 that gain the stage of 128x128 in the middle of the run, by when the
rates, here half again as high, have fallen; penalties weigh more, as there are more pixels. On one
core of an AMD EPYC (Zen 4, bf16, torch 2.14.1), from 23,399 drawn faces, seed 0: Fréchet distance
56.9 to 5,000 others (EfficientNet-Lite0, floor 5.5; report.md), 71 pictures a second at first
and 45 in the end. Those were faces of 96x96, enlarged: what finer ones give is not known.
"""

img_dir = "img/best128"
minutes = 30
n_epoch = 1_000_000
save_every = 2
score_every = 4

image_size = 128
flip = True
gen_fm = 16
dis_fm = 16
deep_side = 4
full_fm = 16
grow = 1
blocks = 1
upsample = "bilinear"
modulate = 1
bias = "outer"
init = "he"

loss = "rpgan"
batch_size = 32
g_every = 1
lr_g = 1.5e-3
lr_d = 1.5e-3
lr_by_fan_in = True
lr_decay = "linear"
beta1_g = 0
beta1_d = 0
beta2_g = 0.99
beta2_d = 0.99
ema = 20_000

r1 = 0.089
r2 = 0.089
gp_every = 16
gp_growth = 8
