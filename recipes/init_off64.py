"""FakeFaceGen's first of four: PyTorch's own first weights, Adam.

With init_on64, sgd64 and sgd_init64 it compares first weights and optimisers. Its author saw D
converge alike with both kinds of first weights, and G lower with the DCGAN paper's. The report
leaves open width, D's norm, batch, rates and epochs: here they are the tutorial's (64 maps, batch
norm, 128, 2e-4) and 25; and its k, the steps of D to one of G: here 1.

Run with 32 maps, 7 epochs of 28,399 faces on a core of an AMD EPYC (Zen 3) that was shared: 45 min;
faces with hair and eyes (report.md).
"""

img_dir = "img/init_off64"

image_size = 64
gen_fm = 64
dis_fm = 64
dis_norm = "batch"

batch_size = 128
g_every = 1
n_epoch = 25
ema = 0
save_every = 5
