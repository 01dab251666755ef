import subprocess
import sys
from pathlib import Path


def test_two_mixed_installations_are_refused(tmp_path: Path) -> None:
    stale = tmp_path / "vega3d" / "train"
    stale.mkdir(parents=True)
    (stale / "__init__.py").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import vega3d;"
        f"vega3d.__path__ = [{str(tmp_path / 'vega3d')!r}, *vega3d.__path__];"
        "from vega3d.pipeline.cli import main; sys.argv = ['vega3d-extract', '--help']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "two installations of vega3d are mixed" in done.stderr
    assert "pip uninstall vega3d" in done.stderr
