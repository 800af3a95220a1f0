"""The neural-network final's GAN: SGD on losses that are summed over a batch of 512.

Its author saw faces after ten epochs only, with a colour cast, and D's loss fall as G's rose; to
be held against wgan_gp64. Width is open in the report (here 64), and its D has batch norm on one
more layer, the first. loss_d and loss_g in losses.csv are means, not sums.

Here the rates throw both networks out in the first steps, and pictures stay noise; with
--lr_g=5e-5 --lr_d=5e-5 it trains. Run so with 32 maps, 30 epochs of 9,467 faces on a core of an AMD
EPYC (Zen 3) that was shared: 1 h 29 min, faces with a colour cast that changes (report.md).
"""

img_dir = "img/gan_sgd64"

image_size = 64
noise_size = 200
gen_fm = 64
dis_fm = 64
dis_norm = "batch"

loss = "bce-sum"
batch_size = 512
g_every = 1
n_epoch = 30
optim_g = "sgd"
optim_d = "sgd"
lr_g = 0.005
lr_d = 0.005
ema = 0
save_every = 2
