"""One of several writers: `racing_writer.py FOLDER ME NAMES [--no-links ...]`.

Says `ready`, waits for a line, and prints the names that it was given.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from interrupted_run import without_links

from vega3d.pipeline.store.folder import FolderObjects

if __name__ == "__main__":
    folder, me, names = sys.argv[1:4]
    without_links(*sys.argv[4:])
    objects = FolderObjects(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[f"a/{i}" for i in range(int(names)) if objects.create(f"a/{i}", [me.encode() * 1000])])
