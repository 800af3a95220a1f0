"""For two hours: networks that grow from 48x48, and draw all details of 96x96 in the second half.

24 feature maps become only 1.4 times as many at half the side (32, 48, 64), as much work as 16 that
double, but more of it on details. Every pixel is mixed from 16 colours, which makes even fields and
clean lines; and a quarter of the noise modulates the maps, so that a step of Adam changes less of
that. From 23,399 drawn faces, seed 0, Fréchet distance to 5,000 others (EfficientNet-Lite0, floor
5.4 or 5.5; report.md), 45 minutes on one core of an AMD EPYC (Zen 3, no bf16, torch 2.14.1), 62
pictures a second: 45.0, a score of 301 (floor 30). With 16 maps that double (--gen_fm=16
--dis_fm=16 --fm_factor=2), on other days, 51.4 and 368, with all of the noise as well
(--modulate=1) 105.5 and 473; with all details from the start (--grow=0 --lr_g=1e-3 --lr_d=1e-3), at
the same time, 73.6 and 413.

110 minutes on two such cores, 99 to 126, in the second half 50 to 63 pictures a second (one core
half asleep then, see report.md): 36.2 and 227. With 16 maps that double, on one core 43.0 and 236,
with all of the noise as well 36.0 and 241, on two cores 37.2 and the best score of all (207); with
neither palette nor grow either (--palette=0 --grow=0 --lr_g=1e-3 --lr_d=1e-3), but bf16 (Zen 4),
36.3 on one core (108 pictures a second), on two with wider networks (--gen_fm=32 --dis_fm=24, which
double) 33.3, a score of 217 and truer shading. From avatars, two hours have been run only with 16
maps that double, all of the noise, and neither palette nor grow (47.8).
"""

img_dir = "img/long96"
minutes = 110
n_epoch = 1_000_000
save_every = 1
score_every = 3

flip = True
gen_fm = 24
dis_fm = 24
fm_factor = 1.4
deep_side = 6
full_fm = 16
palette = 16
grow = 1
blocks = 1
upsample = "bilinear"
modulate = 0.25
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

r1 = 0.05
r2 = 0.05
gp_every = 16
gp_growth = 8
