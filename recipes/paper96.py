"""The DCGAN report's system at the width and batch of the DCGAN paper (Radford et al. 2016).

Its author shrank it for time: a step has sixteen times the work of report96. It is meant for
GPUs.
"""

img_dir = "img/paper96"

gen_fm = 128
dis_fm = 128

batch_size = 128
