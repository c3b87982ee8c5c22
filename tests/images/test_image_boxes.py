"""Box files: every accepted form gives the same boxes, and everything wrong is told at once."""

from __future__ import annotations

import json

import pytest

from xreal_synth.images.boxes import BadBoxes, image_of, images_by_name, norm_box, read_entries

CORNERS = "image,finding,x0,y0,x1,y1\nx.png,Pneumonia,10,20,30,60\n"
SIZED = "image,finding,x,y,w,h\nx.png,Pneumonia,10,20,20,40\n"
SHARES = "image,finding,x0n,y0n,x1n,y1n\nx.png,Pneumonia,0.1,0.1,0.3,0.3\n"
OF_ANOTHER = "image,finding,x,y,w,h,width,height\nx.png,Pneumonia,100,200,200,400,1000,2000\n"
COCO = {
    "images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 200}],
    "categories": [{"id": 1, "name": "Pneumonia"}],
    "annotations": [{"image_id": 7, "category_id": 1, "bbox": [10, 20, 20, 40]}],
}


@pytest.mark.parametrize(
    ("text", "name"),
    [(CORNERS, "b.csv"), (SIZED, "b.csv"), (SHARES, "b.csv"), (OF_ANOTHER, "b.CSV"), (json.dumps(COCO), "b.json")],
)
def test_every_form_gives_the_same_box(text: str, name: str) -> None:
    (entry,) = read_entries(text.encode(), name)
    assert (entry.image, entry.finding) == ("x.png", "Pneumonia")
    assert norm_box(entry, (100, 200)) == pytest.approx((0.1, 0.1, 0.3, 0.3))


def test_names_of_findings_may_be_aliases() -> None:
    text = "image,finding,x0,y0,x1,y1\nx,Infiltrate,1,1,2,2\ny,Pleural Effusion,1,1,2,2\nz,Hernia,1,1,2,2\n"
    assert [entry.finding for entry in read_entries(text.encode(), "b.csv")] == ["Infiltration", "Effusion", "Hernia"]


def test_a_box_over_the_edge_is_cut_and_one_far_outside_refused() -> None:
    text = "image,finding,x0,y0,x1,y1\nx,Mass,-0.5,0,50,100.4\nx,Mass,-5,0,50,50\nx,Mass,50,50,50,60\n"
    over, outside, empty = read_entries(text.encode(), "b.csv")
    assert norm_box(over, (100, 100)) == (0.0, 0.0, 0.5, 1.0)
    assert "b.csv, line 3: box [-5.0, 0.0, 50.0, 50.0] on an image of 100 x 100" in str(norm_box(outside, (100, 100)))
    assert "no area" in str(norm_box(empty, (100, 100)))


@pytest.mark.parametrize(
    ("text", "name", "reported"),
    [
        ("image,x0\n", "b.csv", ["columns image, x0, wanted image, finding and"]),
        ("", "b.csv", ["columns none"]),
        (CORNERS + "y,Pneumonja,1,1,2,2\nz,Mass,1,one,2,2\n", "b.csv", ["line 3: unknown", "line 4"]),
        (CORNERS + "y,No Finding,1,1,2,2\n", "b.csv", ["unknown finding 'No Finding'"]),
        (CORNERS + "y,Mass,1,1,2\n", "b.csv", ["line 3"]),
        (CORNERS + "y,Mass,1,nan,2,2\n", "b.csv", ["line 3: not a box"]),
        ("{}", "b.json", ["not COCO (no images)"]),
        ("[1", "b.json", ["cannot be read"]),
        (json.dumps({**COCO, "annotations": [{"image_id": 8, "category_id": 1, "bbox": [1, 1, 2, 2]}]}), "b.json",
         ["annotation 0: no 8"]),
        ("x", "b.txt", ["wanted a .csv or a COCO .json file"]),
    ],
)  # fmt: skip
def test_everything_wrong_is_reported_at_once(text: str, name: str, reported: list[str]) -> None:
    with pytest.raises(BadBoxes) as caught:
        read_entries(text.encode(), name)
    assert len(caught.value.problems) == len(reported)
    assert all(part in problem for part, problem in zip(reported, caught.value.problems, strict=True))


def test_images_are_found_by_any_of_their_names() -> None:
    images = images_by_name(["one/a.jpg", "two/b.png", "two/c.png", "three/c.png"])
    assert [image_of(name, images) for name in ("one/a.jpg", "a.jpg", "a.png", "x/b.png", "b")] == [
        "one/a.jpg", "one/a.jpg", "one/a.jpg", "two/b.png", "two/b.png"
    ]  # fmt: skip
    assert image_of("c.png", images) is None
    assert image_of("two/c.png", images) == "two/c.png"
