"""Scenes with exact event times, rendered to media files."""

from cmmd_lightning.procedural.rendering import SCENES, SceneName, Streams, render, simulate
from cmmd_lightning.procedural.scene import SceneClip, SceneEvent, SceneSettings

__all__ = ["SCENES", "SceneClip", "SceneEvent", "SceneName", "SceneSettings", "Streams", "render", "simulate"]
