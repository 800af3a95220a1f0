"""Good faces within ten minutes without a GPU, from drawn faces or avatars.

Unlike the report's: both networks draw and judge 48x48 pixels, and an upscaler that learns from the
real pictures beside them makes 96x96 of those (super_res). Both go from 6x6 by doublings, the
generator bilinearly (no weave) and with a quarter of the noise at every stage, with half the
feature maps but a residual convolution at every size, and maps as large as the picture; a pixel is
mixed from 16 colours. D's convolutions learn at rates by their inputs; the relativistic loss with
both zero-centred penalties (R3GAN; Huang et al. 2024), every 16th time, eight times as heavy in the
end, and yet heavier where D would win (gp_aim), Adam without memory of the gradient, as that paper
has it, an eighth of the batch (more and smaller steps), at ten times the rate, which falls to 0.

Ten minutes, on one core of an AMD EPYC (Zen 3, no bf16, torch 2.14.1), from 23,399 drawn faces,
seeds 0 and 1: Fréchet distance 63.5 and 80.1 to 5,000 others (EfficientNet-Lite0, floor 5.4;
report.md), a score of 438 and 505 (floor 30), 150 pictures a second (with an earlier upscaler, as
good, at 161 and 183 a second, 64.5 and 56.8, 441 and 392); networks that drew all of 96x96 came to
71.7 and 616 at best, the report's own settings to 505.8. For more time there is long96.py.

From drawn faces D does not win, and gp_aim does nothing. Pictures as plain as avatars want heavier
penalties: after six minutes on one core with bf16, scores of 544 to 671 in three seeds, for 874 and
885 without gp_aim (floor 13), and beards that are hardly drawn without.
"""

img_dir = "img/best96"
minutes = 10
n_epoch = 1_000_000
save_every = 2
score_every = 4

flip = True
gen_fm = 16
dis_fm = 16
deep_side = 6
full_fm = 16
palette = 16
super_res = 1
blocks = 1
upsample = "bilinear"
modulate = 0.25
bias = "outer"
init = "he"

loss = "rpgan"
batch_size = 32
g_every = 1
lr_g = 2e-3
lr_d = 2e-3
lr_by_fan_in = True
lr_decay = "linear"
beta1_g = 0
beta1_d = 0
beta2_g = 0.99
beta2_d = 0.99
ema = 20_000

r1 = 0.0125
r2 = 0.0125
gp_every = 16
gp_growth = 8
gp_aim = 0.3
