"""PESQ, STOI, words, log-Mel error and time of sound through a log-Mel and back, by vocoder.

python benchmarks/vocoders.py GRID/val griffin_lim runs/vocoder/vocoder.ckpt --n_fft 640 --hop_length 160

Needs the extra: pip install 'cmmd-lightning[speech]'. Words are those of GRID's sentences, where files are so named.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.audio import (
    perceptual_evaluation_speech_quality,
    short_time_objective_intelligibility,
)

from cmmd_lightning.codecs import LogMel, build_vocoder, log_spectral_distance
from cmmd_lightning.media import find_media, probe, read_sound
from cmmd_lightning.metrics.functional.words import hear_sentence, sentence_of, words_right

NAMES = ("PESQ-WB", "STOI", "LSD dB", "log-Mel dB", "words", "s a clip")


def measures(vocoder: torch.nn.Module, mel: LogMel, path: Path) -> list[float]:
    """What a file loses, and the seconds that it took."""
    length = int((probe(path).audio_duration or 0) * mel.sample_rate)
    sound = read_sound(path, num_samples=length, sample_rate=mel.sample_rate)
    log_mel = mel(sound[None])
    began = time.perf_counter()
    again = vocoder(log_mel, length)
    seconds = time.perf_counter() - began
    said = sentence_of(path.stem)
    return [
        perceptual_evaluation_speech_quality(again[0], sound, mel.sample_rate, "wb").item(),
        short_time_objective_intelligibility(again[0], sound, mel.sample_rate).item(),
        log_spectral_distance(again, sound[None]).item(),
        (mel(again) - log_mel).abs().mean().item() * 20 / np.log(10),
        words_right(hear_sentence(again[0], mel.sample_rate), said) if said else float("nan"),
        seconds,
    ]


def main() -> None:
    """Prints one row for each vocoder: means over the files, with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("vocoders", nargs="+")
    for name, value in {"sample_rate": 16000, "n_fft": 640, "hop_length": 160, "n_mels": 80}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--floor", type=float, default=0.01)
    flags = vars(parser.parse_args())
    torch.set_num_threads(1)
    files, names = find_media([flags.pop("folder")]), flags.pop("vocoders")
    mel = LogMel(**flags)
    print("vocoder", "clips", *NAMES, sep=" | ")
    for name in names:
        with torch.no_grad():
            rows = np.array([measures(build_vocoder(name, mel), mel, path) for path in files])
        means, errors = rows.mean(0), rows.std(0) / len(rows) ** 0.5
        print(name, len(rows), *(f"{m:.3f} +- {e:.3f}" for m, e in zip(means, errors, strict=True)), sep=" | ")


if __name__ == "__main__":
    main()
