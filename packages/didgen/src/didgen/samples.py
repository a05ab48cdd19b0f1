"""Pictures of a manifest's split as one record in memory, which the judges train on and are scored on."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from didgen.dataset import ManifestDataset, Sample

# torchvision's published networks were trained on pictures with these means and deviations; the others do not mind.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled pictures, all of one size; 3 bytes a pixel (ISIC 2018 task 1 at 256 px: 0.5 GB).

    Attributes:
        ids: one a picture.
        images: (n, 3, S, S), 0 to 255.
        masks: (n, 1, S, S), True in the lesion; None where there are none.
        labels: (n,) place of each diagnosis in `classes`; None where there are none.
        classes: names of the diagnoses.
    """

    ids: tuple[str, ...]
    images: UInt8[Tensor, "n 3 S S2"]
    masks: Bool[Tensor, "n 1 S S2"] | None = None
    labels: Int64[Tensor, "n"] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> "Samples":
        """The pictures of these rows, in this order."""
        chosen = torch.as_tensor(list(rows), dtype=torch.int64)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            images=self.images[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )

    def joined(self, other: "Samples") -> "Samples":
        """These pictures and then `other`'s, whose ids are marked so that none stands twice.

        Raises:
            ValueError: sizes, classes or kinds of label differ.
        """
        same = self.images.shape[1:] == other.images.shape[1:] and self.classes == other.classes
        if not same or (self.masks is None) != (other.masks is None) or (self.labels is None) != (other.labels is None):
            raise ValueError("the two sets differ in size, classes or kind of label; make both alike")
        return Samples(
            self.ids + tuple(f"synthetic/{name}" for name in other.ids),
            torch.cat([self.images, other.images]),
            None if self.masks is None or other.masks is None else torch.cat([self.masks, other.masks]),
            None if self.labels is None or other.labels is None else torch.cat([self.labels, other.labels]),
            self.classes,
        )

    def digest(self) -> str:
        """One sha256 over ids, pictures and labels: a run resumes only on the data that it began with."""
        total = hashlib.sha256("\n".join((*self.ids, *self.classes)).encode())
        for tensor in (self.images, self.masks, self.labels):
            if tensor is not None:
                total.update(tensor.contiguous().numpy().data)
        return total.hexdigest()


def read_masks(dataset: ManifestDataset, advance: Callable[[int], None] = lambda n: None) -> Samples:
    """All pictures and masks of a dataset without flips, as bytes.

    Raises:
        InputError: an unreadable file, a mask that is empty, full, or of another size.
    """
    images, masks = [], []
    for item in _items(dataset, advance):
        images.append(_bytes(item.image))
        masks.append(item.mask > 0.5)
    return Samples(tuple(row.id for row in dataset.rows), torch.stack(images), torch.stack(masks))


def read_classes(dataset: ManifestDataset, advance: Callable[[int], None] = lambda n: None) -> Samples:
    """All pictures and labels of a dataset without flips, as bytes; labels are places in `dataset.classes`.

    Raises:
        InputError: an unreadable file.
    """
    rows = [replace(row, mask=None) for row in dataset.rows]  # masks are not looked at, so they need not be sound
    images, labels = [], []
    for item in _items(ManifestDataset(rows, dataset.size, None, classes=dataset.classes), advance):
        images.append(_bytes(item.image))
        labels.append(item.label)
    ids = tuple(row.id for row in dataset.rows)
    return Samples(ids, torch.stack(images), labels=torch.tensor(labels), classes=dataset.classes)


def prepared(images: UInt8[Tensor, "n 3 S S2"], device: torch.device | str = "cpu") -> Float[Tensor, "n 3 S S2"]:
    """Bytes as the judges see them: divided by 255, less the mean, over the deviation of each channel."""
    mean, deviation = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, DEVIATION))
    return (images.to(device).float() / 255 - mean) / deviation


def _items(dataset: ManifestDataset, advance: Callable[[int], None]) -> Iterator[Sample]:
    for i in range(len(dataset)):
        yield dataset[i]
        advance(1)


def _bytes(image: Float[Tensor, "3 S S2"]) -> UInt8[Tensor, "3 S S2"]:
    """[-1, 1] back to the bytes that it came from."""
    return ((image + 1) * 127.5).round().to(torch.uint8)
