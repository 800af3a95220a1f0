"""The report's networks without a GPU: many small steps, and batch norm in the discriminator.

With the DCGAN paper's normalisation and first weights, as in PyTorch's tutorial; best96 draws
better faces in as many minutes. On two CPU cores (Xeon with AMX, torch 2.14.1, bf16): plain
faces from 28,399 drawn ones after 8 epochs, 8 min 19 s; from the 4,096 avatars after 10 epochs,
77 s, and all 60 epochs in 7 min 21 s.
"""

img_dir = "img/quick96"
n_epoch = 60
save_every = 2
score_every = 4

dis_norm = "batch"
init = "dcgan"
flip = True
batch_size = 64
g_every = 1
ema = 5_000
