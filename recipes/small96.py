"""best96 for few pictures, or plain ones: all that the discriminator sees is changed at random.

What augment adds (DiffAugment; Zhao et al. 2020) keeps the discriminator from winning where pictures
are few or have large plain areas, as the avatars; it costs a third more time per picture, and on many
thousands of drawn faces best96 does without.
"""

img_dir = "img/small96"
minutes = 10
n_epoch = 1_000_000
save_every = 4
score_every = 8

flip = True
gen_fm = 16
dis_fm = 16
deep_side = 6
upsample = "nearest"
modulate = True
bias = "outer"
dis_norm = "batch"
init = "dcgan"

augment = True
label_smoothing = 0.1
batch_size = 32
g_every = 1
lr_g = 2e-3
lr_d = 2e-3
lr_decay = "linear"
ema = 5_000
