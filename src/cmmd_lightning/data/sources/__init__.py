"""Where clips come from: folders, tables of segments, known corpora."""

from cmmd_lightning.data.sources.aist import Aist
from cmmd_lightning.data.sources.epic_sounds import EpicSounds
from cmmd_lightning.data.sources.folder import Folder
from cmmd_lightning.data.sources.grid import Grid
from cmmd_lightning.data.sources.segments import Segments
from cmmd_lightning.data.sources.source import DataSource, Source, of_split

__all__ = ["Aist", "DataSource", "EpicSounds", "Folder", "Grid", "Segments", "Source", "of_split"]
