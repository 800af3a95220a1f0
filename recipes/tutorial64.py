"""PyTorch's DCGAN tutorial, at 64x64: batch norm in both networks, no biases, five epochs.

The tutorial trains on CelebA, and expects D's answers to end near 1/2. On 28,399 faces it took 45
minutes on one core with bf16: faces with eyes and hair, some smeared (report.md; measured while G
still learnt from new noise in place of, as in the tutorial, the pictures that D has just seen).
"""

img_dir = "img/tutorial64"

image_size = 64
gen_fm = 64
dis_fm = 64
dis_norm = "batch"
bias = False
init = "dcgan"

batch_size = 128
g_every = 1
n_epoch = 5
ema = 0
save_every = 1
seed = 999
deterministic = True
