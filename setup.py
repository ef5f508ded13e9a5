"""The packages; all else is in setup.cfg."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), "cmmd_lightning.configs"])
