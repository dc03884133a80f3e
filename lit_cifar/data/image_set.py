"""ImageSet: labelled images in memory, the form in which every source returns them; the classes of CIFAR."""

from typing import NamedTuple

from torch import Tensor

CIFAR10_CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can"
    " castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin"
    " elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster"
    " man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck"
    " pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk"
    " skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger"
    " tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CIFAR100_CLASSES = tuple(_FINE_NAMES.split())  # of its fine labels


class ImageSet(NamedTuple):
    """Labelled images as stored: bytes, not yet normalised."""

    images: Tensor
    """uint8 `[N, 3, H, W]`, RGB."""
    labels: Tensor
    """int64 `[N]`, indices into `classes`."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
