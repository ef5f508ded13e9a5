"""What the sidecar ``STEM.json`` beside a media file says of its events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmmd_lightning.media import MediaError


def sidecar(path: Path) -> list[dict[str, Any]] | None:
    """The events in ``STEM.json`` beside a media file, each with a ``time`` in seconds from the clip's start.

    None where there is no such file, or it is none of ours: other tools keep captions there.
    """
    content = _content(path)
    if not isinstance(content.get("events"), list):
        return None
    try:
        return [{**event, "time": float(event["time"])} for event in content["events"]]
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(
            path.with_suffix(".json"), "a sidecar with a list 'events', each with a 'time'", type(error).__name__
        ) from error


def sidecar_period(path: Path) -> float | None:
    """Seconds after which the events of a media file repeat, where its sidecar says so."""
    period = _content(path).get("period")
    return float(period) if isinstance(period, int | float) and period > 0 else None


def _content(path: Path) -> dict[str, Any]:
    """What ``STEM.json`` beside a media file holds; nothing where it is missing, or no JSON object."""
    file = path.with_suffix(".json")
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def common_times(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Times in seconds of the events of a sidecar that are both visible and audible."""
    return [event["time"] for event in events if event.get("visible", True) and event.get("audible", True)]


def sidecar_events(path: Path) -> list[float] | None:
    """Times of the events in the sidecar of a media file that are both visible and audible; None without one."""
    events = sidecar(path)
    return None if events is None else common_times(events)


def sidecar_kinds(path: Path) -> set[str]:
    """Kinds of the events in the sidecar of a media file (none where there is no sidecar)."""
    return {str(event.get("kind")) for event in sidecar(path) or ()}
