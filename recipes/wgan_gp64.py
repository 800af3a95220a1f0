"""The neural-network final's WGAN-GP: a critic instead of a discriminator, and a gradient penalty.

Its author saw people after six epochs, a little grey, with less noise and truer colours than
gan_sgd64 gives. The report has batch norm in the critic; the paper (Gulrajani et al. 2017)
advises against it, for the penalty is meant for single pictures, and so there is none here. Width
is open (here 64), and so is the number of the critic's steps to one of G (here one; the paper has
five).

Run with 32 maps, 30 epochs of 9,467 faces on a core of an AMD EPYC (Zen 3) that was shared: 2 h
5 min, blurred heads, no sooner than gan_sgd64 with lower rates (report.md).
"""

img_dir = "img/wgan_gp64"

image_size = 64
noise_size = 200
gen_fm = 64
dis_fm = 64

loss = "wgan-gp"
gp = 10.0
batch_size = 512
g_every = 1
n_epoch = 30
lr_g = 1e-3
lr_d = 1e-3
ema = 0
save_every = 2
