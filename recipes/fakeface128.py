"""FakeFaceGen's final system: 128x128, first weights from N(0, 0.02), Adam, 25 epochs.

Its author saw clearly better pictures than in the four at 64x64 that led to it. The report leaves
open width, D's norm, batch and rates: here they are the tutorial's (64 maps, batch norm, 128,
2e-4); and its k, the steps of D to one of G: here 1.

Run with 16 maps, 7 epochs of 28,399 faces on a core with bf16 that was shared: 48 min; heads, many
with eyes, under a weave of single pixels (report.md).
"""

img_dir = "img/fakeface128"

image_size = 128
gen_fm = 64
dis_fm = 64
dis_norm = "batch"
init = "dcgan"

batch_size = 128
g_every = 1
n_epoch = 25
ema = 0
save_every = 5
