"""What setup.cfg cannot say: on the page of the index, README's links name the repository.

In a clone and on the site they are relative, so that they lead to the same version.
"""

import configparser
import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
config = configparser.ConfigParser()
config.read(ROOT / "setup.cfg", encoding="utf-8")
url = config["metadata"]["url"]
readme = (ROOT / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^]]*\])\((?!https?:|#)", rf"\1({url}/raw/main/", readme)
readme = re.sub(r"\]\((?!https?:|#)", rf"]({url}/blob/main/", readme)

setup(long_description=readme)
