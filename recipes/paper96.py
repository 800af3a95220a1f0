"""The DCGAN report's system at the width and batch of the DCGAN paper (Radford et al. 2016).

Its author shrank it for time: a picture takes 15 times the arithmetic that it takes in report96
(as torch's FlopCounterMode counts). It is meant for GPUs.

Run for 4 epochs of 28,399 faces on a core with bf16, 1 h 49 min at 20 pictures a second: heads with
eyes and hair in few colours, where report96 draws dots after as many steps of the generator
(report.md).
"""

img_dir = "img/paper96"

gen_fm = 128
dis_fm = 128

batch_size = 128
