"""For a few thousand pictures, in 42 minutes: networks like those of best96 draw all of 96x96.

From few pictures more time soon brings little: D gets to know them. A generator that mixes each
picture's pixels from 16 colours, half of them the same in all pictures, draws even fields and clean
lines. It sees all details from the start (neither super-resolution, which has not been tried for so
long from so few, nor growing; so lower rates).

42 minutes on one core of an AMD EPYC (Zen 3, no bf16, torch 2.14.1), 35 pictures a second, from
2,000 drawn faces, seed 0: Fréchet distance 52.3 to 5,000 others (EfficientNet-Lite0, floor 9.6;
report.md), score 432 (floor 54); without the palette, at the same time, 61.0 and 519. 28 minutes
on one with bf16 (Zen 5, 131 to 157 pictures a second): 48.1 and 310. No copying is seen by then.
"""

img_dir = "img/small96"
minutes = 42
n_epoch = 1_000_000
save_every = 10
score_every = 20

flip = True
gen_fm = 16
dis_fm = 16
deep_side = 6
full_fm = 16
palette = 16
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

r1 = 0.05
r2 = 0.05
gp_every = 16
gp_growth = 8
