"""Packaged configs, found by bare name (`cmmd fit --config quickstart.yaml`)."""
