"""A planted fault for each check, and what each leaves alone; drawn chests with known organs, no networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.doubles.phantoms import phantom_anatomy
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather
from xreal_synth.quality.checks import Bound, JudgedFilm
from xreal_synth.quality.gate import SCORES, Gate, GateNetworks
from xreal_synth.quality.organs import dice
from xreal_synth.recipe.quality import PROFILES, STANDARD
from xreal_synth.types import CheckSettings, Mask, QualitySettings, Verdict

SIZE = 128
GREYS = np.array([150, 60, 65, 200, 215], np.float32)


class Reads:
    """Segments drawn chests by their own greys: whatever is dark and light where it is, left or right."""

    def codes(self, films):
        return [self._codes(ndimage.median_filter(film, 9)) for film in films]

    @staticmethod
    def _codes(film) -> Mask:
        near = np.abs(film.astype(np.float32)[None] - GREYS[[0, 1, 3, 4], None, None]).argmin(0)
        codes = np.array([0, 1, 3, 4], np.uint8)[near]
        left_half = np.arange(film.shape[1])[None, :] < film.shape[1] / 2
        return np.where((codes == 1) & left_half, 2, codes).astype(np.uint8)


class Sees:
    """A classifier of one finding: brighter films show more of it."""

    def logits(self, films):
        return [{"Pneumonia": float(film.mean()) / 10 - 12} for film in films]


def chest(seed: int = 1) -> tuple[np.ndarray, Mask]:
    rng = np.random.default_rng(seed)
    mask = phantom_anatomy(SIZE, rng)
    return (GREYS[mask] + rng.normal(0, 8, mask.shape)).clip(1, 254).astype(np.uint8), mask


def edited(film: np.ndarray, level: float = 35.0) -> tuple[np.ndarray, np.ndarray]:
    """A brighter patch with a feather in a region of the film."""
    region = np.zeros(film.shape, bool)
    region[56:96, 20:52] = True
    alpha = feather(region, FEATHER_SHARE * SIZE)
    return (film + alpha * level).clip(0, 254).astype(np.uint8), region


def settings_of(profile: str = "standard", **extra: float | None) -> QualitySettings:
    checks = tuple(
        CheckSettings(name, one.action, dict(one.bounds))
        for name, one in PROFILES[profile].items()
        if name != "copies"
    )
    return QualitySettings(profile, 3, checks, **extra)


def judge(*films: JudgedFilm, networks: GateNetworks | None = None, **extra: float | None) -> list[Verdict]:
    return Gate(settings_of(**extra), networks or GateNetworks(Reads(), Sees())).judge(films)


@pytest.fixture
def film() -> JudgedFilm:
    """A film with a finding that passes."""
    twin, mask = chest()
    painted, region = edited(twin)
    return JudgedFilm("k", painted, mask, twin, region, ("Pneumonia",))


def test_a_clean_film_and_its_twin_pass(film: JudgedFilm) -> None:
    painted, twin = judge(film, JudgedFilm("t", film.twin, film.anatomy))
    assert painted.refused == painted.flags == twin.refused == twin.flags == ()
    told = dict(painted.scores)
    assert told["change.outside"] == 0
    assert told["finding.shown"] > 0
    assert told["organs.heart"] > 0.9
    assert set(dict(twin.scores)) == {
        name for name in told if not name.startswith(("change", "seam", "finding"))
    }
    assert set(told) | {"organs.covered", "copies.distance"} == set(SCORES)


def hard_paste(film: JudgedFilm) -> JudgedFilm:
    other = film.twin.copy()
    other[film.region] = np.clip(other[film.region].astype(int) + 100, 0, 254)
    return replace(film, film=other)


def outside(film: JudgedFilm) -> JudgedFilm:
    other = film.film.copy()
    other[5, 5] ^= 1
    return replace(film, film=other)


def swapped(mask: Mask) -> Mask:
    return np.array([0, 2, 1, 3, 4], np.uint8)[mask]


FAULTS = {
    "blank": (lambda f: replace(f, film=np.full_like(f.film, 100)), "pixels.range"),
    "half blank": (lambda f: replace(f, film=f.film * (np.arange(SIZE) < 64).astype(np.uint8)), "pixels.blank"),
    "saturated": (
        lambda f: replace(f, film=((f.film.astype(float) - 127) * 6 + 127).clip(0, 255).astype(np.uint8)),
        "pixels.saturated",
    ),
    "blurred": (lambda f: replace(f, film=ndimage.gaussian_filter(f.film, 3)), "pixels.blur"),
    "seam": (hard_paste, "seam.energy"),
    "shifted mask": (lambda f: replace(f, anatomy=np.roll(f.anatomy, 14, axis=1)), "organs.left_lung"),
    "swapped lungs in the mask": (lambda f: replace(f, anatomy=swapped(f.anatomy)), "organs.right_lung"),
    "mirrored film": (
        lambda f: JudgedFilm("t", np.ascontiguousarray(f.twin[:, ::-1]), f.anatomy), "organs.heart",
    ),
    "unchanged region": (lambda f: replace(f, film=f.twin), "change.inside"),
    "change outside": (outside, "change.outside"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused_in_words(film: JudgedFilm, fault: str) -> None:
    plant, score = FAULTS[fault]
    (verdict,) = judge(plant(film))
    assert score in verdict.refused
    assert not verdict.accepted
    assert len(verdict.reasons) == len(verdict.refused) + len(verdict.flags)
    said = verdict.reasons[verdict.refused.index(score)]
    assert ("at least" if SCORES[score][0] else "at most") in said


def test_a_finding_that_is_not_shown_is_flagged_and_delivered(film: JudgedFilm) -> None:
    darker, _ = edited(film.twin, -35.0)
    (verdict,) = judge(replace(film, film=darker))
    assert verdict.accepted
    assert verdict.flags == ("finding.shown",)
    strict = Gate(settings_of("strict"), GateNetworks(Reads(), Sees())).judge([replace(film, film=darker)])[0]
    assert "finding.shown" in strict.refused


def test_a_sham_shows_nothing_and_may_change_nothing(film: JudgedFilm) -> None:
    (verdict,) = judge(replace(film, film=film.twin, asked=(), sham=True))
    assert verdict.refused == verdict.flags == ()
    assert "finding.shown" not in dict(verdict.scores)


def test_covered_organs_are_judged_on_the_whole_film(film: JudgedFilm) -> None:
    region = np.isin(film.anatomy, (1, 2))
    (verdict,) = judge(replace(film, region=region))
    told = dict(verdict.scores)
    assert "organs.left_lung" not in told
    assert told["organs.covered"] > STANDARD["organs"].bounds["covered"]
    (verdict,) = judge(replace(film, region=region, anatomy=swapped(film.anatomy)))
    assert "organs.covered" in verdict.refused


def test_a_real_films_own_faults_are_not_the_gates_matter(film: JudgedFilm) -> None:
    dull = (film.twin // 8 + 100).astype(np.uint8)
    painted, region = edited(dull)
    real = replace(film, film=painted, twin=dull, region=region, real=True, anatomy=swapped(film.anatomy))
    (verdict,) = judge(real)
    assert not [name for name in verdict.refused if name.startswith(("pixels", "organs"))]
    (verdict,) = judge(replace(real, real=False))
    assert {"pixels.range", "organs.left_lung"} <= set(verdict.refused)


def test_without_networks_their_scores_are_left_out(film: JudgedFilm) -> None:
    (verdict,) = judge(film, networks=GateNetworks())
    assert {name.split(".")[0] for name, _ in verdict.scores} == {"pixels", "seam", "change"}


def test_labels_pass_where_the_classifier_does_not_see_the_finding_in_the_twin(film: JudgedFilm) -> None:
    dark, light = (np.full_like(film.film, level) for level in (60, 220))
    verdicts = judge(
        JudgedFilm("a", dark),
        JudgedFilm("b", light),
        replace(film, film=light, twin=dark),
        negative_below=0.5,
    )
    assert [verdict.passed for verdict in verdicts] == [{"Pneumonia"}, frozenset(), {"Pneumonia"}]
    assert judge(film)[0].passed is None


def test_a_verdict_does_not_depend_on_the_films_beside_it(film: JudgedFilm) -> None:
    others = [JudgedFilm(str(seed), *chest(seed)) for seed in range(3)]
    assert judge(film)[0] == judge(*others, film)[-1]


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
    assert Bound(0.5, least, "shown").broken(float("nan"))
    assert not Bound(0.5, least, "shown").broken(0.5)
