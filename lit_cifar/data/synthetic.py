"""Ten classes drawn by code: the stand-in for CIFAR-10 on a machine with no data and no network.

Two drawings a class, in the order of `CIFAR10_CLASSES`, written down in a small language and put into the images at a
random place, size, angle and slant, mirrored or not, in random colours on a random background, under noise. Notable:
- colours do not depend on the class: what is to be learned is shape;
- 12,000 images take about a second, for each drawing is rendered once and all else is arithmetic on whole batches;
- the bytes are a function of the seed and the number of images, whatever the number of threads.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet

# The language. A drawing is 100 wide and 100 high, x to the right and y down; whatever has a head looks to the right.
# Its first line is a title, any other is a paint and then shapes, each of which covers what came before:
#   body, accent, ink         the paints; ink is for an eye or a wheel, and light on a dark body
#   blob x y  x y  …          a smooth closed curve through the points
#   poly x y  x y  …          straight edges between them
#   line width x y  x y  …    a stroke along them
#   dots radius x y  x y  …   a disc at each
# An image shows it 21 to 31 pixels wide: what is thinner than 4 is less than a pixel and mostly lost.
DRAWINGS = """
plane, in flight
  body poly 46 44  58 44  42 20  34 20, poly 4 48  0 18  12 18  28 44
  body blob 3 47  20 42  72 42  92 46  98 53  88 58  30 59  8 54
  accent poly 38 52  58 52  34 84  22 84, poly 2 49  17 49  7 63  0 63
  ink dots 3 44 48  54 48  64 48  74 48, poly 84 45  91 47  95 51  85 51

plane, from above
  accent poly 60 47  44 47  24 3  36 3, poly 60 53  44 53  24 97  36 97, poly 20 48  8 48  0 29  8 29
  accent poly 20 52  8 52  0 71  8 71
  body blob 2 50  20 44  80 43  98 50  80 57  20 56, line 7 43 28  54 28, line 7 43 72  54 72
  ink poly 84 45  91 47  91 53  84 55

car, a saloon
  body poly 24 48  36 28  66 28  82 48, blob 2 58  6 48  30 46  78 46  95 51  98 60  96 70  50 71  4 70
  accent poly 31 47  39 33  50 33  50 47, poly 54 47  54 33  63 33  74 47
  ink dots 11 24 70  76 70
  accent dots 5 24 70  76 70

car, a beetle
  body blob 3 64  8 50  22 44  30 28  50 22  68 28  78 46  94 54  97 68  50 72  6 72
  accent blob 33 44  38 32  49 29  49 45, blob 55 45  55 29  64 33  71 45
  ink dots 12 24 71  76 71
  body dots 5 24 71  76 71

bird, perched
  accent poly 84 26  100 33  83 37
  accent line 5 48 68  46 92  57 92, line 5 60 68  60 92  71 92
  body poly 0 74  6 86  40 66  30 52, blob 24 60  40 42  58 36  66 22  78 18  88 28  84 44  78 60  62 73  40 73
  accent blob 18 68  36 50  58 48  66 56  50 66
  ink dots 4 77 28

bird, in flight
  accent poly 88 50  100 56  86 60
  body poly 0 56  2 72  34 64  30 54
  accent blob 48 54  42 30  22 6  50 14  66 34  68 54
  body blob 22 58  48 50  70 50  80 44  91 50  88 60  70 68  44 68, blob 40 58  34 72  28 94  50 84  60 62
  ink dots 4 82 52

cat, sitting
  body line 9 30 88  12 84  8 64  16 48, blob 28 92  28 66  42 48  66 46  78 62  78 92  54 95, poly 38 30  38 2  56 14
  body poly 84 30  84 2  66 14, blob 36 32  46 16  61 13  76 16  86 32  76 48  61 52  46 48
  accent blob 48 90  48 68  60 58  70 70  70 90
  ink dots 5 51 30  71 30, poly 57 39  65 39  61 45

cat, standing
  body line 8 14 56  4 40  8 18  18 10, line 9 20 58  18 90, line 9 32 60  34 90, line 9 62 60  60 90
  body line 9 72 58  76 90, blob 10 54  24 46  60 46  76 50  76 66  46 68  16 66, poly 66 36  66 14  78 24
  body poly 96 36  96 14  84 24, blob 64 40  70 26  81 24  92 26  98 40  92 52  81 55  70 52
  accent line 5 28 48  28 60, line 5 42 48  42 60, line 5 56 48  56 60
  ink dots 4 75 38  88 38

deer, standing
  accent line 5 68 28  58 14  60 0, line 5 58 14  46 8, line 5 76 26  84 12  80 0, line 5 84 12  96 6
  body line 6 20 60  14 98, line 6 30 62  32 98, line 6 58 62  56 98, line 6 66 60  72 98
  body blob 10 54  18 46  56 48  70 54  68 66  40 68  14 66, poly 52 56  64 30  80 34  72 64
  body blob 62 32  70 24  80 28  96 40  92 46  76 44
  accent poly 4 50  8 42  18 50  12 58
  ink dots 3 77 33

deer, head on
  accent line 5 42 30  28 20  24 2, line 5 28 20  12 16, line 5 58 30  72 20  76 2, line 5 72 20  88 16
  body poly 44 34  24 28  22 36  42 44, poly 56 34  76 28  78 36  58 44
  accent poly 42 54  58 54  67 98  33 98
  body blob 35 40  50 26  65 40  59 62  50 76  41 62
  ink dots 4 43 43  57 43, dots 5 50 69

dog, standing
  body line 7 14 50  4 36  2 26, line 9 18 58  16 90, line 9 30 60  30 90, line 9 58 60  58 90, line 9 68 58  70 90
  body blob 10 52  20 44  60 44  74 48  74 64  44 66  14 64, poly 56 48  66 24  84 30  74 58
  body blob 62 28  70 18  82 22  98 30  98 40  82 44  68 42
  accent blob 60 22  68 18  70 32  66 48  58 44
  ink dots 4 98 32, dots 3 79 27

dog, sitting
  body line 8 30 86  12 84  4 70, blob 24 92  26 70  42 48  62 42  72 56  72 92  48 95
  accent line 8 64 58  64 92  74 92
  body blob 44 28  54 12  70 12  78 22  96 28  96 40  76 46  54 46
  accent blob 42 18  52 12  56 30  50 52  40 46
  ink dots 5 95 29, dots 4 70 23

frog, from the side
  body blob 6 72  14 52  36 42  62 34  84 38  96 50  92 62  70 72  40 78, dots 11 72 34
  accent blob 8 76  12 56  30 52  44 64  38 78  20 82
  body line 8 26 80  4 86  34 87, line 9 70 66  70 86  86 87
  ink dots 6 74 33, line 4 74 56  94 53

frog, from the front
  body line 10 24 62  6 76  6 90  24 90, line 10 76 62  94 76  94 90  76 90
  body blob 16 58  28 38  50 34  72 38  84 58  74 80  50 86  26 80, dots 14 30 32  70 32
  accent blob 30 70  50 62  70 70  62 82  38 82
  ink dots 7 30 31  70 31, line 5 28 54  50 60  72 54

horse, standing
  accent line 9 12 48  4 58  4 78
  body line 7 18 58  14 96, line 7 28 60  30 96, line 7 58 60  56 96, line 7 68 58  72 96
  body blob 8 50  20 42  46 45  66 40  76 50  70 64  42 64  14 64, poly 50 48  64 16  80 20  76 56
  body poly 66 18  68 4  76 16, blob 64 20  74 12  84 20  98 36  92 44  78 36  70 34
  accent poly 44 48  52 22  66 6  70 18  62 34  56 52
  ink dots 3 79 23

horse, galloping
  accent line 9 12 40  0 40  -4 56
  body line 7 20 52  4 70  -2 90, line 7 26 54  18 76  26 94, line 7 66 50  84 62  78 80, line 7 62 52  94 54  98 70
  body blob 8 44  22 38  46 40  66 34  76 44  70 56  42 58  14 56, poly 50 42  70 10  84 16  74 50
  body poly 70 12  72 -2  80 12, blob 70 14  78 8  88 16  100 32  94 38  80 30
  accent poly 44 42  50 20  68 2  74 12  66 28  58 46
  ink dots 3 83 18

ship, a steamer
  body poly 0 62  100 58  86 86  12 86
  accent poly 20 62  20 46  72 46  72 60
  body poly 32 46  32 20  44 20  44 46, poly 52 46  52 20  64 20  64 46
  ink poly 32 28  32 20  44 20  44 28, poly 52 28  52 20  64 20  64 28, dots 3 28 54  40 54  52 54  64 54
  ink line 4 8 74  92 72

ship, a sailing boat
  ink line 5 48 4  48 70
  accent poly 52 6  90 58  52 58, poly 44 14  44 58  14 58
  body blob 2 66  30 68  70 68  98 64  84 88  50 91  16 88
  ink line 4 12 76  88 75

truck, with a box
  accent poly 0 22  62 22  62 70  0 70
  body poly 65 36  82 36  98 52  98 74  65 74, poly 0 68  66 68  66 76  0 76
  ink poly 72 41  80 41  89 52  72 52, dots 10 14 76  36 76  82 76
  body dots 4 14 76  36 76  82 76

truck, a tipper
  body poly 62 26  84 26  96 48  98 74  62 74
  accent poly 0 34  54 44  58 64  6 64
  body poly 2 64  66 64  66 74  2 74
  ink poly 70 31  82 31  90 48  70 48, dots 11 18 76  40 76  82 76
  body dots 5 18 76  40 76  82 76
"""

PAINTS = {"body": (255, 0, 0), "accent": (0, 255, 0), "ink": (0, 0, 255)}


def draw(train: int = 10_000, test: int = 2_000, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Training and test images of ten drawn classes, equally many of each (give or take one), in random order.

    The two sets come from generators of their own: how many there are of the one changes nothing in the other.
    """
    stencils = torch.stack([_stencil(drawing) for drawing in DRAWINGS.strip().split("\n\n")])
    return _draw(stencils, train, 2 * seed), _draw(stencils, test, 2 * seed + 1)


def _draw(stencils: Tensor, count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(CIFAR10_CLASSES))[torch.randperm(count, generator=generator)]
    which = 2 * labels + torch.randint(2, (count,), generator=generator)
    images = torch.empty(count, 3, 32, 32, dtype=torch.uint8)
    for first in range(0, count, 500):  # 500 images are 6 MB as floats: little memory, whatever the count
        chunk = slice(first, first + 500)
        images[chunk] = _coloured(_posed(stencils[which[chunk]], generator), generator)
    return ImageSet(images, labels, CIFAR10_CLASSES)


def _stencil(drawing: str) -> Tensor:
    """How much of each paint lies on each point: `[3, 56, 56]`, the drawing with a margin of 6 all round."""
    scale = 4  # drawn four times as large and reduced, for PIL's own edges are not smooth
    canvas = Image.new("RGB", (112 * scale, 112 * scale))
    pen = ImageDraw.Draw(canvas)
    for line in drawing.splitlines()[1:]:
        paint, shapes = line.split(maxsplit=1)
        fill = PAINTS[paint]
        for text in shapes.split(","):
            shape, *words = text.split()
            numbers = [scale * float(word) for word in words]
            width = numbers.pop(0) if shape in ("line", "dots") else 0
            points = np.array(numbers).reshape(-1, 2) + 6 * scale
            if shape == "blob":
                pen.polygon(_smooth(points).flatten().tolist(), fill)
            elif shape == "poly":
                pen.polygon(points.flatten().tolist(), fill)
            elif shape == "line":
                pen.line(points.flatten().tolist(), fill, round(width), joint="curve")
            else:
                for x, y in points:
                    pen.ellipse((x - width, y - width, x + width, y + width), fill)
    paints = np.array(canvas.resize((56, 56), Image.Resampling.BOX))
    return torch.from_numpy(paints).permute(2, 0, 1) / 255


def _smooth(points: np.ndarray) -> np.ndarray:
    """A closed Catmull-Rom curve through the points, in eight steps from each to the next."""
    before, after, beyond = (np.roll(points, shift, axis=0)[:, None] for shift in (1, -1, -2))
    here, t = points[:, None], np.linspace(0, 1, 8, endpoint=False)[:, None]
    bend = 2 * before - 5 * here + 4 * after - beyond + t * (3 * (here - after) + beyond - before)
    return (here + t / 2 * (after - before + t * bend)).reshape(-1, 2)


def _posed(stencils: Tensor, generator: Generator) -> Tensor:
    """Every stencil at a random place, size, angle and slant, mirrored or not: `[N, 3, 32, 32]`."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(stencils), 1, 1, generator=generator)

    # These ranges and the contrast below set how hard it is. In the tutorial's two epochs on 9,000 images its net
    # reaches 75 to 88 % (eight seeds); 88 to 93 % were places within ±0.12, 33 to 62 % if contrasts began at 0.3.
    x = torch.linspace(-1, 1, 32) - between(-0.18, 0.18)
    y = torch.linspace(-1, 1, 32)[:, None] - between(-0.18, 0.18)
    width, height = between(0.75, 1.1), between(0.75, 1.1)
    angle, slant = between(-0.3, 0.3), between(-0.2, 0.2)
    mirror = between(-1, 1) < 0
    # From a point of the image back to the stencil's. Written out, for affine_grid multiplies matrices, and the last
    # bit of such a product may depend on the number of threads.
    u = angle.cos() * x + angle.sin() * y
    v = angle.cos() * y - angle.sin() * x
    across = (u + slant * v) / width
    return grid_sample(stencils, torch.stack([across.where(mirror, -across), v / height], dim=3), align_corners=False)


def _coloured(paints: Tensor, generator: Generator) -> Tensor:
    """The paints in random colours on a background that shades from one colour to another: uint8 `[N, 3, 32, 32]`."""

    def rand(channels: int) -> Tensor:
        return torch.rand(len(paints), channels, 1, 1, generator=generator)

    def tint(brightness: Tensor) -> Tensor:
        hue = rand(3)
        return (brightness + 0.5 * (hue - hue.mean(1, keepdim=True))).clamp(0, 1)

    # The body is brighter than a dark ground and darker than a bright one, the ink as bright as the ground, the accent
    # between the two: so no class is brighter than another, however much ink it has.
    ground = rand(1)
    contrast = 0.5 + 0.3 * rand(1)
    body = torch.where(ground < 0.5, ground + contrast, ground - contrast)
    accent = (ground + body) / 2 + 0.2 * (rand(1) - 0.5)

    direction = 2 * math.pi * rand(1)
    line = torch.linspace(-0.35, 0.35, 32)  # at most 0.35 * sqrt(2) = 0.5 from the middle
    shade = 0.5 + direction.cos() * line + direction.sin() * line[:, None]
    image = torch.lerp(tint(ground), tint(ground), shade) * (1 - paints.sum(1, keepdim=True))
    for layer, brightness in zip(paints.split(1, dim=1), (body, accent, ground), strict=True):
        image += layer * tint(brightness)
    image += 0.06 * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)
