"""Faces within minutes, without a GPU: many small steps, and batch norm in the discriminator."""

img_dir = "img/quick96"
n_epoch = 60
save_every = 2

dis_norm = "batch"
init = "dcgan"
flip = True
batch_size = 64
g_every = 1
ema = 10_000
