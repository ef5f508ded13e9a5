"""Real media files: reading by time, writing, probing."""

from .container import AUDIO_SUFFIXES, VIDEO_SUFFIXES, MediaError, find_media, is_audio, is_video
from .muxing import mux
from .probing import MediaInfo, probe
from .read import iter_frames, iter_sound, read_frames, read_sound
from .write import write_sound, write_video

__all__ = [
    "AUDIO_SUFFIXES",
    "VIDEO_SUFFIXES",
    "MediaError",
    "MediaInfo",
    "find_media",
    "is_audio",
    "is_video",
    "iter_frames",
    "iter_sound",
    "mux",
    "probe",
    "read_frames",
    "read_sound",
    "write_sound",
    "write_video",
]
