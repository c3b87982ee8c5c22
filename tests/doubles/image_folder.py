"""A folder of drawn images to edit, as a user's own would lie: images, organ masks, manifest.csv, boxes.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.doubles.fakes import fake_anatomy

MANIFEST = """\
image,mask,labels,patient_id,age,split
a.png,masks/a.png,No Finding,1,61,train
b.png,masks/b.png,Pneumonia,2,62,train
c.png,masks/c.png,Pneumonia|Mass,2,63,train
d.png,masks/d.png,Effusion,3,64,val
e.png,masks/e.png,No Finding,4,65,val
f.png,masks/f.png,,5,66,val
"""
BOXES = """\
image,finding,x0,y0,x1,y1
b.png,Pneumonia,60,40,80,60
c.png,Pneumonia,20,36,36,56
c.png,Mass,60,50,72,60
d.png,Pleural Effusion,18,50,38,70
"""
"""In pixels of images of 96 x 96."""


def write_image_folder(folder: Path, manifest: str | None = MANIFEST, boxes: str = BOXES, size: int = 96) -> Path:
    """Writes six images of `size` pixels with organ masks, manifest and boxes (these for 96); returns `folder`."""
    (folder / "masks").mkdir(parents=True)
    for i, name in enumerate("abcdef"):
        rng = np.random.default_rng(i)
        mask = fake_anatomy(size, rng)
        pixels = 150 - 20 * mask + rng.integers(-9, 9, mask.shape)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    if manifest is not None:
        (folder / "manifest.csv").write_text(manifest)
    (folder / "boxes.csv").write_text(boxes)
    return folder
