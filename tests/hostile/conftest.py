"""The clips of the media tests are made by the same hands."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "media"))
