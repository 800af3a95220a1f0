"""The DCGAN report's system at the width and batch of the DCGAN paper (Radford et al. 2016).

Its author shrank it for time: a picture takes 15 times the arithmetic that it takes in report96
(as torch's FlopCounterMode counts). It is meant for GPUs.
"""

img_dir = "img/paper96"

gen_fm = 128
dis_fm = 128

batch_size = 128
