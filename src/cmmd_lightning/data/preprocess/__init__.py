"""From media files to the cache of latents and log-Mels."""
