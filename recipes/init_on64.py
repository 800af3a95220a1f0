"""FakeFaceGen's second of four: first weights from N(0, 0.02), Adam.

Its author saw G's loss converge lower than with PyTorch's own weights (init_off64), and pictures
that were hardly better. The report leaves open width, D's norm, batch, rates and epochs: here they
are the tutorial's (64 maps, batch norm, 128, 2e-4) and 25; and its k, the steps of D to one of G:
here 1.

Run with 32 maps, 7 epochs of 28,399 faces on a core of an AMD EPYC (Zen 3) that was shared: 43 min;
faces with hair and eyes, no better than with init_off64 (report.md).
"""

img_dir = "img/init_on64"

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
