"""Augmentation policies as data: which operations there are, and what a configuration string means.

Needs numpy only, so that a configuration can be checked before anything heavy is imported. Doing
the operations is `fastdeit.augment`'s.
"""

from fastdeit.policies.operations import NAMED_OPS, Op
from fastdeit.policies.policy import Policy, Step, one_operation, parse_policy

__all__ = ["NAMED_OPS", "Op", "Policy", "Step", "one_operation", "parse_policy"]
