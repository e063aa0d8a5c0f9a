"""Packages of Demucs: files of its class, arguments and weights, read and written without its code."""
