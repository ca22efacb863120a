"""Parameter shapes of known models, for timing optimizers without the models."""

from collections.abc import Callable, Collection

import numpy as np

from experiments.harness.errors import bad_input

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def blocks12() -> Shapes:
    """12 matrices of 512 x 512, 4 of 1024 x 256, 12 biases of 512, 4 of 1024."""
    shapes: Shapes = {}
    for i in range(12):
        shapes |= {f"square_{i}": (512, 512), f"square_bias_{i}": (512,)}
    for i in range(4):
        shapes |= {f"tall_{i}": (1024, 256), f"tall_bias_{i}": (1024,)}
    return shapes


def transformer(*, width: int = 256, layers: int = 4) -> Shapes:
    """A Transformer's layers without its embedding."""
    shapes: Shapes = {}
    for i in range(layers):
        for name in ("query", "key", "value", "out"):
            shapes |= {f"{i}/{name}": (width, width), f"{i}/{name}_bias": (width,)}
        shapes |= {f"{i}/up": (width, 4 * width), f"{i}/up_bias": (4 * width,)}
        shapes |= {f"{i}/down": (4 * width, width), f"{i}/down_bias": (width,)}
        for norm in ("attention_norm", "feed_forward_norm"):
            shapes |= {f"{i}/{norm}/scale": (width,), f"{i}/{norm}/bias": (width,)}
    return shapes


def sequences() -> Shapes:
    """A sequential recommender: two layers of width 64 and a table of 3,706 items."""
    return {
        "items": (3706, 64),
        "positions": (200, 64),
        **transformer(width=64, layers=2),
    }


def resnet50() -> Shapes:
    """ResNet-50 for ImageNet, kernels as [height, width, in, out]."""
    shapes: Shapes = {"stem": (7, 7, 3, 64), "stem_norm": (64,), "stem_norm_bias": (64,)}
    channels = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            kernels = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                kernels.append((1, 1, channels, 4 * width))
            channels = 4 * width
            for i, kernel in enumerate(kernels):
                name = f"{stage}/{block}/{i}"
                norms = {f"{name}/norm": kernel[-1:], f"{name}/norm_bias": kernel[-1:]}
                shapes |= {f"{name}/kernel": kernel, **norms}
    return shapes | {"head": (2048, 1000), "head_bias": (1000,)}


def layers200() -> Shapes:
    """200 equal layers of 64 x 64 with a bias."""
    shapes: Shapes = {}
    for i in range(200):
        shapes |= {f"kernel_{i:03d}": (64, 64), f"bias_{i:03d}": (64,)}
    return shapes


def odd200() -> Shapes:
    """200 matrices of 200 different odd shapes."""
    return {f"kernel_{i:03d}": (17 + 2 * (37 * i % 59), 15 + 2 * (i % 61)) for i in range(200)}


PARAMETER_SETS: dict[str, Callable[[], Shapes]] = {
    "blocks12": blocks12,
    "transformer": transformer,
    "sequences": sequences,
    "resnet50": resnet50,
    "layers200": layers200,
    "odd200": odd200,
}


def draw(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    """Draw normal float32 values."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def read_sets(text: str, known: Collection[str] = PARAMETER_SETS) -> list[str]:
    """Split the value of `--sets`.

    Raises:
      InputError: a name is not among the known ones.
    """
    names = text.split(",")
    for name in names:
        if name not in known:
            raise bad_input("--sets", expected=f"some of {', '.join(known)}", found=name)
    return names
