"""Provenance in words, as every export has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from xreal_synth.dataset.head import BundleRef
from xreal_synth.dataset.source import Source
from xreal_synth.models.describe import describe_made_with

SYNTHETIC = "Synthetic chest X-rays, made by a model. For research; not for diagnosis. No image shows a patient."
EDITED = (
    "Patients' chest X-rays, edited by a model. For research; not for diagnosis. Members h are real images as "
    "they are; the others are real images in which a model painted findings in or over."
)

NO_MASKS = "requested labels alone: the images do not follow the organ masks (sampling.control: none)"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Licence and origin; what is not known because the bundle is not at hand says so.

    `synthetic` is true where no pixel of any image is a patient's.
    """

    notice: str
    synthetic: bool
    dataset: str
    digest: str
    bundle: BundleRef
    licence: str
    use_restriction: str
    training_data: str
    made_with: dict[str, str]
    follows_masks: bool = True

    @property
    def drawn_from(self) -> str:
        """What the model was given."""
        return "organ masks and requested labels" if self.follows_masks else NO_MASKS

    def fields(self) -> dict[str, object]:
        """As JSON."""
        fields = asdict(self)
        del fields["notice"], fields["follows_masks"]
        return {**fields, "drawn_from": self.drawn_from}


def provenance(source: Source) -> Provenance:
    """The head's and the bundle's own statements."""
    head = source.head
    bundle = describe_made_with(head.bundle.name, head.bundle.hash)
    unknown = "as the bundle's own bundle.json states it (it was not at hand when this was written)"
    real = head.real_images
    return Provenance(
        notice=EDITED if real else SYNTHETIC, synthetic=not real, dataset=head.name, digest=head.digest,
        bundle=head.bundle, licence=bundle.licence if bundle else unknown,
        use_restriction=bundle.use_restriction if bundle else unknown,
        training_data=bundle.training_data if bundle else unknown,
        made_with=dict(sorted(head.fingerprint.items())), follows_masks=head.follows_masks,
    )  # fmt: skip
