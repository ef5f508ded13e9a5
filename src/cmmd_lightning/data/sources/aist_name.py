"""Names of the AIST Dance Video Database and what they say.

Tsuchida, Fukayama, Hamasaki and Goto (2019), "AIST Dance Video Database"; the rules are those of
https://aistdancedb.ongaaccel.jp/data_formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

GENRES = {
    "BR": "Break",
    "PO": "Pop",
    "LO": "Lock",
    "MH": "Middle Hip-hop",
    "LH": "LA style Hip-hop",
    "HO": "House",
    "WA": "Waack",
    "KR": "Krump",
    "JS": "Street Jazz",
    "JB": "Ballet Jazz",
}
"""Code to name of the ten genres; the place of a genre here is its class index."""

# First and step of the tempo in BPM over a genre's six pieces of music.
_TEMPO, _HOUSE_TEMPO = (80, 10), (110, 5)
_NAME = re.compile(r"g([A-Z]{2})_s([A-Z]{2})_c(\d{2}|All)((?:_d\d{2})+)_m([A-Z]{2}[0-5])_ch(\d{2})")


@dataclass(frozen=True)
class AistName:
    """What the name of an AIST video says.

    Args:
        genre: Two letters, a key of ``GENRES``.
        situation: Two letters: ``BM`` basic dance, ``FM`` advanced dance, ``MV`` moving camera, ``GR`` group dance.
        camera: ``c01`` to ``c10``, or ``cAll``, which stands for all of them.
        dancers: One of ``d01`` to ``d40``, or three for a group dance.
        music: Genre and number of the piece, such as ``mBR0``.
        choreography: ``ch01`` and up, counted within genre and situation.

    Example:
        >>> name = AistName.parse("gBR_sBM_c01_d04_mBR0_ch01")
        >>> name.sequence, name.bpm, str(AistName.parse("gLO_sGR_c02_d13_d14_d15_mLO0_ch01"))
        ('gBR_sBM_cAll_d04_mBR0_ch01', 80, 'gLO_sGR_c02_d13_d14_d15_mLO0_ch01')
    """

    genre: str
    situation: str
    camera: str
    dancers: tuple[str, ...]
    music: str
    choreography: str

    @classmethod
    def parse(cls, name: str) -> AistName:
        """The parts of a name without its suffix.

        Raises:
            ValueError: If it is not of the form ``gBR_sBM_c01_d04_mBR0_ch01``, with one dancer or more.
        """
        found = _NAME.fullmatch(name)
        if found is None or found[1] not in GENRES or found[5][:2] not in GENRES:
            raise ValueError(f"expected an AIST name such as gBR_sBM_c01_d04_mBR0_ch01, got {name!r}")
        genre, situation, camera, dancers, music, choreography = found.groups()
        return cls(genre, situation, f"c{camera}", tuple(dancers[1:].split("_")), f"m{music}", f"ch{choreography}")

    def __str__(self) -> str:
        parts = (f"g{self.genre}", f"s{self.situation}", self.camera, *self.dancers, self.music, self.choreography)
        return "_".join(parts)

    @property
    def sequence(self) -> str:
        """Name of the dance, whichever camera filmed it, as in the lists of AIST++."""
        return str(replace(self, camera="cAll"))

    @property
    def danced(self) -> str:
        """The choreography, which is counted within genre and situation."""
        return f"g{self.genre}_s{self.situation}_{self.choreography}"

    @property
    def bpm(self) -> int:
        """Tempo of the music in beats per minute, which its number says: 80 + 10 n, for House 110 + 5 n."""
        first, step = _HOUSE_TEMPO if self.music[1:3] == "HO" else _TEMPO
        return first + step * int(self.music[3])
