"""Scenes with exact event times, rendered to media files."""

from cmmd_lightning.procedural.rendering import SCENES, SceneChoice, Streams, render, simulate
from cmmd_lightning.procedural.scene import Scene, SceneClip, SceneEvent, SceneSettings

__all__ = [
    "SCENES",
    "Scene",
    "SceneChoice",
    "SceneClip",
    "SceneEvent",
    "SceneSettings",
    "Streams",
    "render",
    "simulate",
]
