"""FakeFaceGen's third of four: SGD, and PyTorch's own first weights. It is known to fail.

Its author saw D's loss collapse at once and pictures stay noise, and suspected too little data or
too high a rate. The report leaves open width, batch, rates and epochs: here they are the
tutorial's (64 maps, 128) and 25, with one step of D to one of G; 0.01 is a usual rate of SGD.
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
lr_g = 0.01
lr_d = 0.01
