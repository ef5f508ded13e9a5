"""How well each measure tells known faults from clips in sync: ``cmmd calibrate``."""
