"""Makes a folder of network parts a bundle: writes its bundle.json with the sha256 of every file.

`python -m xreal_synth.models.save FOLDER --fields FIELDS.json` (a bundle.json of an earlier version will do;
without --fields the folder's own is used).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pydantic import ValidationError

from xreal_synth.errors import BundleError, XrealError
from xreal_synth.models.bundle_file import BUNDLE_FILE, FORMAT_VERSION, PICKLES, BundleFields
from xreal_synth.models.describe import BundleInfo, describe
from xreal_synth.opening import parse_json
from xreal_synth.storage import LocalStore, sha256_file


def write_bundle(folder: Path, fields: BundleFields) -> BundleInfo:
    """Hashes every file below `folder`, writes bundle.json, and returns what describe() reads of it.

    Hidden files are left out. Raises BundleError if a part is missing or a file is a pickle.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        key = path.relative_to(folder).as_posix()
        if path.is_dir() or key == BUNDLE_FILE or any(part.startswith(".") for part in Path(key).parts):
            continue
        if path.suffix.lower() in PICKLES:
            raise BundleError(
                where=str(path), found="a pickle", wanted="safetensors only", hint="convert it, then delete it"
            )
        files[key] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    record = {"format_version": FORMAT_VERSION, **fields.model_dump(mode="json", exclude_none=True), "files": files}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    LocalStore(folder).replace(BUNDLE_FILE, text.encode())
    return describe(folder)


def read_fields(path: Path) -> BundleFields:
    """The fields of a bundle.json, or of a file that holds them alone; raises BundleError."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        return BundleFields.model_validate({k: v for k, v in data.items() if k not in ("files", "format_version")})
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise BundleError(
            where=str(path), found=str(error), wanted="JSON with the fields of a bundle.json", hint="correct the file"
        ) from error


def main() -> int:
    """The command: writes bundle.json of a folder's parts; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m xreal_synth.models.save", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fields", type=Path, metavar="JSON", help="default: the folder's own bundle.json")
    given = parser.parse_args()
    try:
        info = write_bundle(given.folder, read_fields(given.fields or given.folder / BUNDLE_FILE))
    except XrealError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{info.name}: {len(info.files)} files, {info.bytes} bytes, content hash {info.content_hash}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
