"""fastdeit: the fastest faithful way to train DeiT on ImageNet on one node.

What DeiT is lives here: configuration, recipes, models, augmentation, losses, optimiser, training
and evaluation. How samples arrive is `fastdeit.pipelines`; the program is `fastdeit.tools`; the
measurements are `fastdeit.benchmarks`. Importing this package imports nothing heavy.
"""

from fastdeit.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "__version__"]
