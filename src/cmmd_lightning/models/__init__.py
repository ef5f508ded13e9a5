"""The joint network: pure torch."""
