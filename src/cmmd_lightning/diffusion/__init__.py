"""Noise schedule, objective and sampler of the joint diffusion: pure torch."""
