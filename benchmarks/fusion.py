"""What each fusion costs per training step, at matched parameters.

python benchmarks/fusion.py [--rounds 20] [--threads 1]

The networks of ``configs/ablation/`` (plain is easy fusion), without the contrastive term: parameters, FLOPs and what
autograd keeps per example (counted), and milliseconds of forward, backward and AdamW, measured in turn (so that a
machine that drifts does not favour one).
"""

from __future__ import annotations

import argparse

import torch
from profile_steps import compare, training_step

from cmmd_lightning import CMMD, ClipSpec, NetworkSpec, ObjectiveSpec
from cmmd_lightning.models.unet import JointUNet
from cmmd_lightning.studies.ablation.plan import config_text, merged
from cmmd_lightning.training.autoencoder import FrameAutoencoderModule
from cmmd_lightning.training.cost import measure_network


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    codec = FrameAutoencoderModule(**merged([config_text("ablation/vae.yaml")], {})["model"]["init_args"]).codec
    steps = {}
    for recipe in ("plain", "cross_attention", "no_fusion"):
        names = ("ablation/base.yaml", f"ablation/{recipe}.yaml")
        settings = merged([config_text(name) for name in names], {})
        init, batch = settings["model"]["init_args"], settings["data"]["batch_size"]
        clip, spec = ClipSpec.of(init["clip"]), NetworkSpec.of(init["network"])
        shape = codec.latent_shape(clip.height, clip.width)
        cost = measure_network(spec, clip, shape)
        print(
            f"{recipe:<16} {cost['parameters']:>9,} parameters   {cost['training_flops'] / 1e9:6.3f} GFLOPs"
            f"   {cost['activation_bytes'] / 2**20:6.1f} MiB per example"
        )
        model = CMMD(clip=clip, objective=ObjectiveSpec.of(init["objective"]), schedule_shift=init["schedule_shift"])
        steps[recipe] = training_step(model, JointUNet(shape[0], clip.n_mels, spec), shape, batch, 0.0)
    compare(steps, args.rounds)


if __name__ == "__main__":
    main()
