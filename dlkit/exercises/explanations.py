"""The open task of notebook 06: few pixels that explain an answer, which are to be both enough for it and needed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlkit import data
from dlkit.exercises import Answer, Hint, Points, task
from dlkit.exercises.answers import shaped
from dlkit.models import pretrained

PIXELS, IMAGES = 30, 100  # the most that a mask may have, and that the net may be asked about for it
DIGITS = [305, 302, 303, 309, 300, 317, 316, 301, 338, 235]  # test digits, one of each class, which the net reads right
STEPS = (3, 5, 7, 9)  # so many of the ten digits are worth a point more


class CountedNet(nn.Module):
    """A net that counts the images it is asked about."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images.ndim != 3:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise Hint(f"`net` takes a batch of images, such as `image[None]`; it got {shape}.")
        self.asked += len(images)
        return self.net(images)


@task
def explain(answer: Answer) -> Iterator[Points]:
    """`answer(net, image, label)`: a mask (height, width) of 30 pixels at most; it may ask about 100 images at most."""
    test, net = data.load("mnist").test, CountedNet(pretrained("lenet5"))
    images, labels = test.images[DIGITS], torch.as_tensor(test.labels)[DIGITS]
    masks, asked = [], []
    for image, label in zip(images, labels.tolist(), strict=True):
        masks.append(_mask(answer(net, image, label), image))
        asked.append(answer.lent[0].asked)
    found = torch.stack(masks)
    sizes, asked_about = found.sum((1, 2)), torch.tensor(asked)
    within = (sizes > 0) & (sizes <= PIXELS) & (asked_about <= IMAGES)
    with torch.no_grad():
        alone, without = (net.net(images * kept).argmax(1) for kept in (found, ~found))
    enough, needed = within & (alone == labels), within & (without != labels)
    yield Points(
        2 * bool(within.all()),
        2,
        f"limits: {int(within.sum())} of {len(found)} masks keep them; the most were {int(sizes.max())} pixels of "
        f"{PIXELS} and {max(asked)} images of {IMAGES}",
    )
    yield _share(enough, "enough: read right by these pixels alone")
    yield _share(needed, "needed: no longer read right without these pixels")


def _mask(answer: Any, image: Tensor) -> Tensor:
    """The answer, if it is True or False, or 1 or 0, for each pixel. Raises Hint if not."""
    values = shaped(answer, tuple(image.shape), "a mask with a value for each pixel")
    if not ((values == 0) | (values == 1)).all():
        raise Hint(
            "A mask says yes or no to each pixel, True or False: yours has other values. Which pixels have the "
            f"{PIXELS} largest?"
        )
    return values.bool()


def _share(right: Tensor, criterion: str) -> Points:
    """Points for how many of the digits meet the criterion."""
    count = int(right.sum())
    return Points(sum(count >= least for least in STEPS), len(STEPS), f"{criterion}: {count} of {len(right)} digits")
