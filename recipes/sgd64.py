"""FakeFaceGen's third of four: SGD, and PyTorch's own first weights. It is known to fail.

Its author saw D's loss collapse at once and pictures stay noise, and suspected too little data or
too high a rate. The rate is too low: with --lr_g=0.01 --lr_d=0.01, faces come sooner than with Adam
(report.md). The report leaves open width, D's norm, batch, rates and epochs: here they are the
tutorial's (64 maps, batch norm, 128, 2e-4, which are Adam's) and 25; and its k, the steps of D to
one of G: here 1.

Run with 32 maps, 4 epochs of 28,399 faces on a core of an AMD EPYC (Zen 4, bf16): 11 min 30 s;
noise (report.md).
"""

img_dir = "img/sgd64"

image_size = 64
gen_fm = 64
dis_fm = 64
dis_norm = "batch"

batch_size = 128
g_every = 1
n_epoch = 25
ema = 0
save_every = 5

optim_g = "sgd"
optim_d = "sgd"
lr_g = 2e-4
lr_d = 2e-4
