"""The DCGAN report's system, which is also GAN.py's default: narrow, for the sake of time.

Its author saw blurred outlines after 10 to 20 epochs of 51,223 drawn faces, hair, eyes and
colours after 50, sharp faces after 150; loss_d stayed low and loss_g high all along. The
generator learns from every fifth batch, because a weak discriminator gives bad pictures.

A hundred epochs of 28,399 faces took 51 minutes on two cores with AMX: faces with hair and eyes
from the fiftieth on (report.md).
"""

img_dir = "img/report96"

image_size = 96
noise_size = 100
gen_fm = 32
dis_fm = 32

batch_size = 256
d_every = 1
g_every = 5
n_epoch = 200
lr_g = 2e-4
lr_d = 2e-4
