"""What the codecs of a checkpoint cost on real clips: the ceiling of whatever it generates.

    python benchmarks/round_trip.py CKPT FOLDER

The first clip length of each media file in FOLDER goes through the frame codec and back, and through log-Mel and
vocoder. Prints PSNR and log-spectral distance in dB over the files: mean, 95 % interval, and the worst.
"""

import sys

import numpy as np

from cmmd_lightning import CMMD
from cmmd_lightning.codecs.quality import frame_round_trip, sound_round_trip
from cmmd_lightning.media import find_media, read_frames, read_sound
from cmmd_lightning.metrics.functional.intervals import bootstrap_interval


def main(ckpt_path: str, folder: str) -> None:
    """Measure and print."""
    model = CMMD.from_pretrained(ckpt_path)
    clip, found = model.clip, {"frames, PSNR": [], "sound, log-spectral distance": [], "sound, log-Mel error": []}
    for path in find_media([folder]):
        size = (clip.height, clip.width)
        frames = read_frames(path, start=0.0, num_frames=clip.num_frames, fps=clip.fps, size=size, fit=clip.fit)
        sound = read_sound(path, start=0.0, num_samples=clip.num_samples, sample_rate=clip.sample_rate)
        heard = sound_round_trip(model.mel, model.vocoder, sound[None])
        found["frames, PSNR"].append(frame_round_trip(model.codec, frames.float() / 127.5 - 1)["psnr"])
        found["sound, log-spectral distance"].append(heard["log_spectral_distance"])
        found["sound, log-Mel error"].append(heard["mel_error"])
    for name, values in found.items():
        low, high = bootstrap_interval(values)
        worst = min(values) if "PSNR" in name else max(values)
        print(f"{name:32} {np.mean(values):6.2f} dB [{low:.2f}, {high:.2f}], worst {worst:.2f}, {len(values)} clips")


if __name__ == "__main__":
    main(*sys.argv[1:])
