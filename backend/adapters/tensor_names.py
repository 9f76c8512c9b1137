"""What stands behind the module's name in the names of an adapter's tensors, under one name for each meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The names of LyCORIS' files, which all others are brought to; "up" is what PEFT calls B, and "down" what it calls A.
_XLABS = re.compile(r"((?:double|single)_blocks\.\d+\.processor\.\w+)\.(up|down)\.weight")
_OF_A_PROCESSOR = re.compile(r"(.+)_lora\.(up|down)\.weight")  # diffusers of before 0.20
_XLABS_BLOCKS = ("double_blocks.", "single_blocks.")
_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # a name that PEFT puts between
_DOTTED = (
    r"lora\.(?P<diffusers>up|down)\.weight",
    r"lora_(?P<kohya>up|down|mid)\.weight",
    r"lora_linear_layer\.(?P<linear>up|down)\.weight",
    rf"lora(?:_embedding)?_(?P<peft>[AB]){_ADAPTER}(?:\.weight)?",
    rf"lora_B{_ADAPTER}\.(?P<up_bias>bias)",
    r"(?P<magnitude>lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?|magnitude)",
    rf"(?P<peft_own>oft_R|boft_[Rs]|ia3_l){_ADAPTER}(?:\.weight)?",
    r"(?P<weighted>[ab][12]|bm|[qp]_layer)\.weight",
    r"(?P<base>base_[qp]|base_lambda|lambda_layer)(?:\.weight)?",
    r"(?P<plain>alpha|dora_scale|scale|rescale|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12])"
    r"|oft_(?:blocks|diag)|diff|diff_b|w_norm|b_norm|set_weight|reshape_weight|on_input|weight|bias"
    r"|bias_(?:indices|values|size))",
)
_ENDING = re.compile(rf"\.(?:{'|'.join(_DOTTED)})\Z")
_MOST_PARTS = 3  # between dots, of an ending
_PEFT = {"A": "down", "B": "up"}
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\..+|clip_[lg]|emb_params)")


def split_name(key: str) -> tuple[str, str] | None:
    """A key of an adapter -> its module's name and what the tensor is ("up", "hada_w1_a" ...); None for others."""
    if key.startswith(_XLABS_BLOCKS) and (found := _XLABS.fullmatch(key)):
        return found[1], found[2]
    if "_lora." in key and (found := _OF_A_PROCESSOR.fullmatch(key)):
        return found[1], found[2]
    start = len(key.rsplit(".", _MOST_PARTS)[0])  # a name of many dots costs no more than another
    found = _ENDING.search(key, max(1, start))
    if found is None or found.lastgroup is None:
        return None
    kind, value = found.lastgroup, found[found.lastgroup]
    return key[: found.start()], {"peft": _PEFT.get(value, value), "up_bias": kind, "magnitude": kind}.get(kind, value)


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
