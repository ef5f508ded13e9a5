"""Write the oldest version of each dependency of the package that setup.cfg allows, as constraints for pip."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

config = ConfigParser()
config.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
lines = config["options"]["install_requires"].splitlines()
for name, extra in config["options.extras_require"].items():
    lines += extra.splitlines() if name != "dev" else []  # of tools, the newest
oldest = dict(found.groups() for line in lines if (found := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", line)))
sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(oldest.items()))
