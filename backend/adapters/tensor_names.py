"""What stands behind the module's name in the names of an adapter's tensors, under one name for each meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The names of LyCORIS' files, which all others are brought to; "up" is what PEFT calls B, and "down" what it calls A.
_XLABS = re.compile(r"((?:double|single)_blocks\.\d+\.processor\.\w+)\.(up|down)\.weight")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(.+?){ending}"), name)
    for ending, name in (
        (r"\.lora_(up|down|mid)\.weight", "{}"),
        (r"[._]lora\.(up|down)\.weight", "{}"),
        (r"\.lora_linear_layer\.(up|down)\.weight", "{}"),
        (r"\.lora(?:_embedding)?_([AB])(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?", "{}"),
        (r"\.lora_B(?:\.(?!weight$|bias$)[^.]+)?\.bias", "up_bias"),
        (r"\.(alpha|dora_scale|scale|rescale)", "{}"),
        (r"\.(?:lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?|magnitude)", "magnitude"),
        (r"\.(hada_(?:w[12]_[ab]|t[12]))", "{}"),
        (r"\.(lokr_(?:w[12](?:_[ab])?|t[12]))", "{}"),
        (r"\.([ab][12])\.weight", "{}"),
        (r"\.bm\.weight", "bm"),
        (r"\.(oft_(?:blocks|diag|R(?:\..+)?))", "{}"),
        (r"\.(diff|diff_b|w_norm|b_norm|set_weight|reshape_weight)", "{}"),
        (r"\.(on_input|weight|bias)", "{}"),
        (r"\.(bias_(?:indices|values|size))", "{}"),
        (r"\.(base_[qp]|base_lambda|lambda_layer)(?:\.weight)?", "{}"),
        (r"\.([qp]_layer)\.weight", "{}"),
    )
)
_PEFT = {"A": "down", "B": "up"}
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\..+|clip_[lg]|emb_params)")


def split_name(key: str) -> tuple[str, str] | None:
    """A key of an adapter -> its module's name and what the tensor is ("up", "hada_w1_a" ...); None for others.

    No pattern can be mistaken for another: the first that fits the whole key decides.
    """
    if found := _XLABS.fullmatch(key):
        return found[1], found[2]
    for pattern, name in _PATTERNS:
        if found := pattern.fullmatch(key):
            value = found[2] if found.re.groups > 1 else ""
            return found[1], name.format(_PEFT.get(value, value))
    return None


def bundled_embedding(key: str) -> str | None:
    """The name of a textual inversion that an adapter carries, where the key belongs to one."""
    found = _BUNDLED.fullmatch(key)
    return found[1] if found else None


def modules_of(keys: Mapping[str, object]) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Module name -> tensor -> key; and the keys that belong to none. The first key of a doubled tensor counts."""
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in keys:
        parts = split_name(key)
        if parts is None or parts[1] in modules.get(parts[0], {}):
            others.append(key)
        else:
            modules.setdefault(parts[0], {})[parts[1]] = key
    return modules, tuple(others)
