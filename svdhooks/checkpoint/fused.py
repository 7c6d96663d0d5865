"""Projections that hold query, key and value, or gate and up, in one weight.

Shapes do not tell: a fused weight is divided where ``config.json`` beside the checkpoint
names an architecture that is known, or its layout gives it away (GPT-2).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from svdhooks.layers.parts import Part, by_head, consecutive, equal

Config = Mapping[str, Any]
Layout = Callable[[Config, int], list[Part]]

_NAMES = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "gate_up_proj")


def fused_parts(
    attribute: str, shape: tuple[int, int], turned: bool, config: Config
) -> tuple[list[Part], str]:
    """The parts of a projection.

    Args:
        attribute: Last part of its name.
        shape: ``(out, in)``.
        turned: Whether it is stored as in × out.
        config: Of the model.

    Returns:
        The parts, none if it is whole; and what to say where that is not known.
    """
    if attribute not in _NAMES:
        return [], ""
    text = config.get("text_config")
    told = {**config, **text} if isinstance(text, Mapping) else config
    out, in_ = shape
    model = str(told.get("model_type", ""))
    if attribute == "c_attn" and turned and out == 3 * in_ and not model:
        return equal("qkv", out), ""  # only GPT-2 and its kin store it so
    for name, models, layout in _TABLE:
        if name == attribute and model in models:
            return layout(told, out), ""
    if out <= in_:
        return [], ""
    missing = "config.json" if not model else f"a rule for {model!r}"
    return [], f"fused, and kept whole: {missing} is missing that says how to divide it"


def _qkv(_config: Config, out: int) -> list[Part]:
    return equal("qkv", out)


def _gate_up(_config: Config, out: int) -> list[Part]:
    return equal(("gate", "up"), out)


def _heads(config: Config) -> tuple[int, int]:
    """Query heads and key heads; 0 where they are not told."""
    heads = config.get("num_attention_heads", config.get("n_head", 0))
    attention = config.get("attn_config")
    if isinstance(attention, Mapping):
        heads = heads or config.get("n_heads", 0)
        keys = attention.get("kv_n_heads", heads)
    else:
        keys = config.get("num_key_value_heads", heads)
    whole = all(isinstance(n, int) and n > 0 for n in (heads, keys))
    return (heads, keys) if whole else (0, 0)


def _grouped(config: Config, out: int) -> list[Part]:
    """All queries, then all keys, then all values."""
    heads, keys = _heads(config)
    if not heads or out % (heads + 2 * keys):
        return []
    size = out // (heads + 2 * keys)
    return consecutive("qkv", [heads * size, keys * size, keys * size])


def _each_head(config: Config, out: int) -> list[Part]:
    """Query, key and value of one head after the other."""
    heads, _ = _heads(config)
    if not heads or out % (3 * heads):
        return []
    return by_head(heads, 1, out // (3 * heads))


def _codegen(_config: Config, out: int) -> list[Part]:
    """Four blocks, each of a query, a value and a key."""
    query, second, third = by_head(4, 1, out // 12)
    return [query, replace(third, suffix="k"), replace(second, suffix="v")]


def _falcon(config: Config, out: int) -> list[Part]:
    heads, _ = _heads(config)
    if not heads:
        return []
    if config.get("new_decoder_architecture"):
        keys = config.get("num_kv_heads") or heads
        return by_head(keys, heads // keys, out // (heads + 2 * keys))
    if config.get("multi_query", True):
        return by_head(1, heads, out // (heads + 2))
    return by_head(heads, 1, out // (3 * heads))


def _big_code(config: Config, out: int) -> list[Part]:
    heads, _ = _heads(config)
    if not heads:
        return []
    if config.get("multi_query", True):
        return by_head(1, heads, out // (heads + 2))
    return by_head(heads, 1, out // (3 * heads))


_TABLE: tuple[tuple[str, tuple[str, ...], Layout], ...] = (
    ("c_attn", ("gpt2", "imagegpt", "decision_transformer", "openai-gpt"), _qkv),
    ("c_attn", ("gpt_bigcode",), _big_code),
    (
        "query_key_value",
        ("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"),
        _each_head,
    ),
    ("query_key_value", ("falcon",), _falcon),
    ("qkv_proj", ("phi3", "phi4_multimodal"), _grouped),
    ("qkv_proj", ("codegen",), _codegen),
    ("Wqkv", ("mpt", "modernbert"), _qkv),
    ("Wqkv", ("dbrx",), _grouped),
    ("gate_up_proj", ("phi3", "phi4_multimodal", "glm", "glm4", "dia"), _gate_up),
)
