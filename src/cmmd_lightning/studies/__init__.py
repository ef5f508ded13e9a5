"""Experiments made of what is below: ablations, and the measures measured."""
