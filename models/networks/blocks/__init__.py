"""Blocks of the hybrid U-Nets: encoder and decoder layers, and the dilated residual branch inside them.

Every strided convolution has a kernel of twice its stride and is padded by a quarter of its kernel, so L
becomes ceil(L / stride). A spectral layer strides over frequency and never over time: it works on (B, D, F, N)
with kernels (k, 1); a temporal layer works on (B, D, T) with kernels k. Attribute names are the published
state-dict keys. Read next: `layers.py`, then `../htdemucs.py` or `../hdemucs.py`, which stack these.
"""
