"""README's Python runs as printed, each block with no names but those that it makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
# In one process, at JAX's own settings and not those of the tests: to start is the greater part of a block's time.
RUN = (
    "import json, sys\nfor n, block in enumerate(json.load(sys.stdin)): exec(compile(block, f'block {n}', 'exec'), {})"
)


def test_blocks_of_the_readme_run():
    assert len(BLOCKS) >= 3
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=ROOT, env=env, input=json.dumps(BLOCKS), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
