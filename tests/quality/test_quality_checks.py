"""A planted fault for each check, and what each leaves alone; drawn chests with known organs, no networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.doubles.fakes import fake_anatomy
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather
from xreal_synth.quality.checks import JudgedImage, NetworkReadings, Score
from xreal_synth.quality.gate import CHECKS, SCORES, Gate, GateNetworks
from xreal_synth.quality.organs import dice, measure, mirrored
from xreal_synth.recipe.quality import in_profile
from xreal_synth.types import CheckSettings, Mask, QualitySettings, Verdict

SIZE = 128
GREYS = np.array([150, 60, 65, 200, 215], np.float32)


class Reads:
    """Segments drawn chests by their own greys: whatever is dark and light where it is, left or right."""

    def label_map(self, images):
        return [self._label_map(ndimage.median_filter(image, 9)) for image in images]

    @staticmethod
    def _label_map(image) -> Mask:
        near = np.abs(image.astype(np.float32)[None] - GREYS[[0, 1, 3, 4], None, None]).argmin(0)
        label_map = np.array([0, 1, 3, 4], np.uint8)[near]
        left_half = np.arange(image.shape[1])[None, :] < image.shape[1] / 2
        return np.where((label_map == 1) & left_half, 2, label_map).astype(np.uint8)


class Sees:
    """A classifier of one finding: brighter images show more of it."""

    def logits(self, images):
        return [{"Pneumonia": float(image.mean()) / 10 - 12} for image in images]


def chest(seed: int = 1) -> tuple[np.ndarray, Mask]:
    rng = np.random.default_rng(seed)
    mask = fake_anatomy(SIZE, rng)
    return (GREYS[mask] + rng.normal(0, 8, mask.shape)).clip(1, 254).astype(np.uint8), mask


def edited(image: np.ndarray, level: float = 35.0) -> tuple[np.ndarray, np.ndarray]:
    """A brighter patch with a feather in a region of the image."""
    region = np.zeros(image.shape, bool)
    region[56:96, 20:52] = True
    alpha = feather(region, FEATHER_SHARE * SIZE)
    return (image + alpha * level).clip(0, 254).astype(np.uint8), region


def settings_of(profile: str = "standard", **extra: float | None) -> QualitySettings:
    checks = tuple(CheckSettings(name, *in_profile(name, profile)) for name in CHECKS if name != "copies")
    return QualitySettings(profile, 3, checks, **extra)


def judge(*images: JudgedImage, networks: GateNetworks | None = None, **extra: float | None) -> list[Verdict]:
    return Gate(settings_of(**extra), networks or GateNetworks(Reads(), Sees())).judge(images)


@pytest.fixture
def image() -> JudgedImage:
    """An image with a finding that passes."""
    twin, mask = chest()
    painted, region = edited(twin)
    return JudgedImage("k", painted, mask, twin, region, ("Pneumonia",))


def test_a_clean_image_and_its_twin_pass(image: JudgedImage) -> None:
    painted, twin = judge(image, JudgedImage("t", image.twin, image.anatomy))
    assert painted.refused == painted.flags == twin.refused == twin.flags == ()
    reported = dict(painted.scores)
    assert reported["change.outside"] == 0
    assert reported["finding.shown"] > 0
    assert reported["organs.heart"] > 0.9
    assert set(dict(twin.scores)) == {name for name in reported if not name.startswith(("change", "seam", "finding"))}
    assert set(reported) | {"organs.covered", "copies.distance"} == set(SCORES)


def hard_paste(image: JudgedImage) -> JudgedImage:
    other = image.twin.copy()
    other[image.region] = np.clip(other[image.region].astype(int) + 100, 0, 254)
    return replace(image, image=other)


def outside(image: JudgedImage) -> JudgedImage:
    other = image.image.copy()
    other[5, 5] ^= 1
    return replace(image, image=other)


def swapped(mask: Mask) -> Mask:
    return np.array([0, 2, 1, 3, 4], np.uint8)[mask]


FAULTS = {
    "blank": (lambda f: replace(f, image=np.full_like(f.image, 100)), "pixels.range"),
    "half blank": (lambda f: replace(f, image=f.image * (np.arange(SIZE) < 64).astype(np.uint8)), "pixels.blank"),
    "saturated": (
        lambda f: replace(f, image=((f.image.astype(float) - 127) * 6 + 127).clip(0, 255).astype(np.uint8)),
        "pixels.saturated",
    ),
    "blurred": (lambda f: replace(f, image=ndimage.gaussian_filter(f.image, 3)), "pixels.blur"),
    "seam": (hard_paste, "seam.energy"),
    "shifted mask": (lambda f: replace(f, anatomy=np.roll(f.anatomy, 14, axis=1)), "organs.left_lung"),
    "swapped lungs in the mask": (lambda f: replace(f, anatomy=swapped(f.anatomy)), "organs.right_lung"),
    "mirrored image": (lambda f: JudgedImage("t", np.ascontiguousarray(f.twin[:, ::-1]), f.anatomy), "organs.heart"),
    "unchanged region": (lambda f: replace(f, image=f.twin), "change.inside"),
    "change outside": (outside, "change.outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused_in_words(image: JudgedImage, fault: str) -> None:
    plant, score = FAULTS[fault]
    (verdict,) = judge(plant(image))
    assert score in verdict.refused
    assert not verdict.accepted
    assert len(verdict.reasons) == len(verdict.refused) + len(verdict.flags)
    said = verdict.reasons[verdict.refused.index(score)]
    assert ("at least" if SCORES[score][0] else "at most") in said


def test_a_finding_that_is_not_shown_is_flagged_and_delivered(image: JudgedImage) -> None:
    darker, _ = edited(image.twin, -35.0)
    (verdict,) = judge(replace(image, image=darker))
    assert verdict.accepted
    assert verdict.flags == ("finding.shown",)
    strict = Gate(settings_of("strict"), GateNetworks(Reads(), Sees())).judge([replace(image, image=darker)])[0]
    assert "finding.shown" in strict.refused


def test_a_finding_that_was_taken_away_is_judged_like_one_that_was_added(image: JudgedImage) -> None:
    shown, hidden = image.image, image.twin
    gone = {"asked": (), "gone": ("Pneumonia",)}
    (removed,) = judge(replace(image, image=hidden, twin=shown, **gone))
    assert dict(removed.scores)["finding.shown"] > 0
    (grown,) = judge(replace(image, **gone))
    assert grown.flags == ("finding.shown",)


def test_a_sham_shows_nothing_and_may_change_nothing(image: JudgedImage) -> None:
    (verdict,) = judge(replace(image, image=image.twin, asked=(), sham=True))
    assert verdict.refused == verdict.flags == ()
    assert "finding.shown" not in dict(verdict.scores)


def test_covered_organs_are_judged_on_the_whole_image(image: JudgedImage) -> None:
    region = np.isin(image.anatomy, (1, 2))
    (verdict,) = judge(replace(image, region=region))
    reported = dict(verdict.scores)
    assert "organs.left_lung" not in reported
    assert reported["organs.covered"] > in_profile("organs", "standard")[1]["covered"]
    (verdict,) = judge(replace(image, region=region, anatomy=swapped(image.anatomy)))
    assert "organs.covered" in verdict.refused


def test_a_real_images_own_faults_are_not_the_gates_matter(image: JudgedImage) -> None:
    dull = (image.twin // 8 + 100).astype(np.uint8)
    painted, region = edited(dull)
    real = replace(image, image=painted, twin=dull, region=region, real=True, anatomy=swapped(image.anatomy))
    (verdict,) = judge(real)
    assert not [name for name in verdict.refused if name.startswith(("pixels", "organs"))]
    (verdict,) = judge(replace(real, real=False))
    assert {"pixels.range", "organs.left_lung"} <= set(verdict.refused)


def test_without_networks_their_scores_are_left_out(image: JudgedImage) -> None:
    (verdict,) = judge(image, networks=GateNetworks())
    assert {name.split(".")[0] for name, _ in verdict.scores} == {"pixels", "seam", "change"}


def test_labels_pass_where_the_classifier_does_not_see_the_finding_in_the_twin(image: JudgedImage) -> None:
    dark, light = (np.full_like(image.image, level) for level in (60, 220))
    verdicts = judge(
        JudgedImage("a", dark), JudgedImage("b", light), replace(image, image=light, twin=dark), negative_below=0.5
    )
    assert [verdict.passed for verdict in verdicts] == [{"Pneumonia"}, frozenset(), {"Pneumonia"}]
    assert judge(image)[0].passed is None


def test_a_verdict_does_not_depend_on_the_images_beside_it(image: JudgedImage) -> None:
    others = [JudgedImage(str(seed), *chest(seed)) for seed in range(3)]
    assert judge(image)[0] == judge(*others, image)[-1]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_dice_is_symmetric_and_bounded(seed: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 9, 9)) < 0.4
    assert dice(a, b) == dice(b, a)
    assert 0 <= dice(a, b) <= 1
    assert dice(a, a) == 1
    assert dice(a, a & b) >= dice(a, b) - 1e-12 or not (a & b).any()


@pytest.mark.parametrize("least", [True, False])
def test_a_score_that_is_no_number_breaks_its_bound(least: bool) -> None:
    score = Score(least, "shown", "", None, None)
    assert score.broken(float("nan"), 0.5)
    assert not score.broken(0.5, 0.5)


def test_a_mirror_image_fits_the_mirrored_mask_better() -> None:
    _, mask = chest()
    turned = mirrored(mask)
    assert np.array_equal(mirrored(turned), mask)
    assert [np.count_nonzero(turned == code) for code in (1, 2)] == [np.count_nonzero(mask == code) for code in (2, 1)]
    image = JudgedImage("k", np.zeros(mask.shape, np.uint8), mask)
    side = [measure(image, NetworkReadings(label_map=shown))["side"] for shown in (mask, turned)]
    assert side[0] > 0
    assert side[1] == pytest.approx(-side[0])
