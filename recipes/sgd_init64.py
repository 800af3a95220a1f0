"""FakeFaceGen's last of four: SGD, and first weights from N(0, 0.02). It is known to fail.

Its author saw D's loss collapse at once and pictures stay noise, as without (sgd64). The report
leaves open width, D's norm, batch, rates and epochs: here they are the tutorial's (64 maps, batch
norm, 128, 2e-4, which are Adam's) and 25; and its k, the steps of D to one of G: here 1.

Run with 32 maps, 4 epochs of 28,399 faces on a core of an AMD EPYC (Zen 4, bf16): 10 min 35 s;
noise (report.md).
"""

img_dir = "img/sgd_init64"

image_size = 64
gen_fm = 64
dis_fm = 64
dis_norm = "batch"
init = "dcgan"

batch_size = 128
g_every = 1
n_epoch = 25
ema = 0
save_every = 5

optim_g = "sgd"
optim_d = "sgd"
lr_g = 2e-4
lr_d = 2e-4
