"""Many small trainings that differ in one thing each, measured alike: ``cmmd ablate`` and ``cmmd compare``."""
