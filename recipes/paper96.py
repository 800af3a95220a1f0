"""The DCGAN report's system at the width and batch of the DCGAN paper (Radford et al. 2016).

Its author shrank it for time: a picture takes 15 times the arithmetic that it takes in report96
(as torch's FlopCounterMode counts). It is meant for GPUs.

Run for one epoch of 28,399 faces on a core with bf16, at 20 pictures a second: light shapes, where
report96 draws dots after as many steps (report.md).
"""

img_dir = "img/paper96"

gen_fm = 128
dis_fm = 128

batch_size = 128
