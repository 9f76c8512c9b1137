"""The merge rules that come with the program."""

from __future__ import annotations

from backend.merging.rules import (
    adjust,
    cosine,
    differences,
    interpolation,
    rotate,
    slerp,
    smooth_add,
    sparse_differences,
    tensor_sum,
    whole_weight_means,
)

BUILTIN = (
    *interpolation.RULES[:1],
    *slerp.RULES,
    *interpolation.RULES[1:],
    *differences.RULES,
    *smooth_add.RULES,
    *cosine.RULES,
    *tensor_sum.RULES,
    *sparse_differences.RULES,
    *whole_weight_means.RULES,
    *rotate.RULES,
    *adjust.RULES,
)
