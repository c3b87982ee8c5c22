"""A bundle with one part more: copied into a new folder, the part added, bundle.json written anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import BUNDLE_FILE
from xreal_synth.models.convert.assemble import new_folder, refuse_existing, silent
from xreal_synth.models.describe import BundleInfo, describe
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.text.model import Report


def extend_bundle(
    bundle: str | Path,
    out: Path,
    part: str,
    write: Callable[[Path, BundleInfo], None],
    licence: str,
    *,
    report: Report = silent,
) -> BundleInfo:
    """Copies `bundle` to `out` and lets `write` add `part` to it; the part's licence stands beside the rest's.

    Raises ConversionError if the bundle has the part already or `out` is there; BundleError for a broken one.
    """
    refuse_existing(out)
    info = describe(bundle)
    if part in info.parts:
        raise ConversionError(
            where=f"bundle {info.name}", found=f"it has a part {part} already", wanted="a bundle without",
            mend="choose another bundle",
        )  # fmt: skip
    report("checking the bundle", 0, 3)
    fields = read_fields(info.root / BUNDLE_FILE)
    with new_folder(out) as folder:
        report(f"adding {part}", 1, 3)
        write(folder, info)
        report("copying the bundle", 2, 3)
        for stamp in info.files:
            info.copy_file(stamp.path, folder)
        update = {"licence": f"{fields.licence}; {part}: {licence}"}
        write_bundle(folder, fields.model_copy(update=update))
    return describe(out)
