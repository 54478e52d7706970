"""Small models of transformers with a head: every class of its auto mappings, from a shrunk configuration, without a download.

A `Case` is one class, for sequence classifiers one of what they can be trained on. `build` gives the model, its inputs and
labels as it takes them itself.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

N, L, WORDS, LABELS = 2, 9, 99, 3
LEFT_OUT = ("MODEL", "MODEL_FOR_BACKBONE", "MODEL_FOR_TEXT_ENCODING", "MODEL_FOR_IMAGE")  # which have no head
SHRUNK = (  # keys of configurations -> what they become where they are larger
    (r"vocab_size|.*_vocab_size(_.*)?|vocab_size_.*|emb_size|codebook_size", WORDS),
    (
        r"(max|n|num)_.*positions?(_embeddings)?|max_seq_len(gth)?|n_ctx|context_length|seq_length|max_source_positions",
        64,
    ),
    (r".*(kv|key_value|query_groups?).*heads?.*|.*heads?_kv", 2),
    (r".*heads(_.*)?|.*n_head|num_attention_heads|.*_nheads", 2),
    (r"(.*_)?(layers|n_layer|depth|blocks|num_layers|hidden_layers|n_layers)|num_.*_layers(_.*)?", 2),
    (r".*(rope_head_dim|rotary_dim|nope_head_dim)", 8),
    (r".*head_dim|d_kv|attention_head_size|.*_head_size", 16),
    (r".*(experts_per_tok|experts_per_token|topk|top_k|topk_group|n_group|moe_k)", 2),
    (r".*experts", 4),
    (r".*lora_rank", 16),
    (r"image_size|.*_image_size|input_resolution|crop_size", 32),
    (r"patch_size|.*_patch_size|encoder_stride", 8),
    (r"num_frames", 4),
    (r"window_size|sliding_window|attention_window|local_attention", 8),
    (r".*(_size|_dim|_dims|d_model|n_embd|d_ff|n_inner|_width|_channels?|^dim)|d_inner|width|dim|.*_features|dff", 32),
)
KEPT = re.compile(
    r"num_channels|in_channels|.*kernel.*|type_vocab_size|chunk_size_feed_forward|.*batch.*|num_labels|.*merge_size|"
    r".*temporal.*|.*mel.*|audio_channels|num_feat_extract_layers|max_window_layers|first_k_dense.*|adapter_.*|"
    r".*conv.*groups|num_attention_channels|feature_size|input_size|conv_dim|state_size|.*token.*|.*every.*|.*pool.*"
)


DEEP, FITTED = (3, 5), (4, 5)  # tiers: small, but as deep as ever; what is None or must fit another number is filled in
FILLED = {  # what some configurations leave to a checkpoint
    "head_dim": 16,
    "num_key_value_heads": 2,
    "vocab_size": WORDS,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "pad_token_id": 0,
    "default_language": "en_XX",
    "attn_layer_indices": [1],
    "mamba_d_ssm": 64,
}


class Case(NamedTuple):
    """One class with a head, of one model type; `variant` is the `problem_type` of sequence classifiers."""

    type: str
    name: str
    variant: str
    heads: str  # the mapping that names it first

    @property
    def key(self) -> str:
        return f"{self.name} {self.variant}".strip()


def cases() -> list[Case]:
    """Every class of the auto mappings that has a head, once."""
    from transformers.models.auto import modeling_auto

    found: dict[str, Case] = {}
    for table in sorted(vars(modeling_auto)):
        heads = table.removesuffix("_MAPPING_NAMES")
        if not table.startswith("MODEL_") or heads == table or heads in LEFT_OUT:
            continue
        for model_type, names in getattr(modeling_auto, table).items():
            for name in names if isinstance(names, (tuple, list)) else (names,):
                several = "SequenceClassification" in name
                for variant in ("class", "labels", "value") if several else ("",):
                    case = Case(model_type, name, variant, heads.removeprefix("MODEL_").removeprefix("FOR_"))
                    if not found.get(case.key, case).heads.startswith("PRETRAINING"):
                        found.setdefault(case.key, case)
                    else:
                        found[case.key] = case
    # One of every head after the other, so that a part of all is a part of each; `labels` and `value` are much like `class`.
    each: dict[str, list[Case]] = {}
    for case in sorted(found.values(), key=lambda case: (case.variant in ("labels", "value"), case.key.lower())):
        each.setdefault(f"{case.heads} {case.variant}", []).append(case)
    return [case for row in itertools.zip_longest(*each.values()) for case in row if case is not None]


# --- configurations ------------------------------------------------------------------------------------------------


def shrunk(config: dict[str, Any], tier: int) -> dict[str, Any]:
    """A configuration as a dictionary with small numbers: all of them (tier 0), or fewer (1: widths stay, 2: depths alone); see
    also `DEEP` and `FITTED`.
    """
    ids = itertools.count(3)
    found: dict[str, Any] = {}
    deep = max(
        (v for k, v in config.items() if re.fullmatch(r"num_hidden_layers|n_layers?|num_layers", k) and v), default=0
    )
    for key, value in config.items():
        if key in (
            "architectures",
            "id2label",
            "label2id",
            "problem_type",
            "transformers_version",
            "torch_dtype",
            "dtype",
        ):
            continue
        if isinstance(value, dict) and "rope" not in key:
            value = shrunk(value, tier)
        elif re.fullmatch(r".*(token_id|token_index|_id)s?", key) and isinstance(value, int) and value > 2:
            value = next(ids)
        elif isinstance(value, bool) or key.startswith("_"):
            pass
        elif isinstance(value, int) and not KEPT.fullmatch(key):
            value = _smaller(key, value, tier)
        elif key == "out_features":
            continue
        elif key == "out_indices":
            value = [1, 2, 3, 4] if isinstance(value, (list, tuple)) and len(value) == 4 else None
        elif isinstance(value, (list, tuple)):
            value = _shorter(key, list(value), deep, tier)
        found[key] = value
    if tier in FITTED:
        found |= _fitted(found)
    if found.get("out_indices") and "num_hidden_layers" in found:
        found["num_hidden_layers"] = 4
    return found


def _fitted(small: dict[str, Any]) -> dict[str, Any]:
    """What of a small configuration must be another number, because others are."""
    found = {key: value for key, value in FILLED.items() if key in small and small[key] is None}
    hidden, heads = small.get("hidden_size"), small.get("mamba_n_heads", small.get("num_heads"))
    if "qk_rope_head_dim" in small:
        found["head_dim"] = small["qk_rope_head_dim"]
    if "pooler_hidden_size" in small:
        found["pooler_hidden_size"] = hidden
    if "codebook_size" in small:
        found["codebook_size"] = 64
    for expand, width in (("mamba_expand", "mamba_d_head"), ("expand", "head_dim")):
        if expand in small and width in small and hidden and heads:
            found[width] = int(small[expand] * hidden) // heads
    return found


def _smaller(key: str, value: int, tier: int) -> int:
    for pattern, small in SHRUNK:
        if tier in DEEP and "n_layer" in pattern:
            continue
        if re.fullmatch(pattern, key):
            widths = small in (32, 16) or "heads" in pattern
            return value if (tier == 1 and widths) or (tier == 2 and small != 2) else min(value, small)
    return value


def _shorter(key: str, value: list[Any], deep: int, tier: int) -> Any:
    if deep > 2 and len(value) == deep and tier in DEEP:
        return value
    if deep > 2 and len(value) == deep:
        return [value[0], value[-1]]
    numbers = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    if not numbers or not value:
        return value
    if re.fullmatch(r"depths|num_blocks|layers|stage_num_blocks|encoder_layers", key):
        return [min(v, 1) for v in value]
    if tier not in (1, 2) and re.fullmatch(r"hidden_sizes|embed_dims?|dims|.*_hidden_sizes|channels|width", key):
        return [8 * 2 ** min(i, 2) for i in range(len(value))]
    if tier not in (1, 2) and re.fullmatch(r"num_attention_heads|num_heads", key):
        return [min(v, 2) for v in value]
    if tier != 2 and re.fullmatch(r"conv_dim", key):
        return [32 for _ in value]
    if tier not in (1, 2) and re.fullmatch(r"image_size", key):
        return [32 for _ in value]
    return value


def configuration(case: Case, tier: int) -> Any:
    """The shrunk configuration of a case. Raises whatever transformers raises."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[case.type]
    settings = shrunk(kind().to_dict(), tier)
    settings["num_labels"] = 1 if case.variant == "value" else 2 if "QuestionAnswering" in case.name else LABELS
    if "CTC" in case.name:
        settings["vocab_size"] = WORDS
    known = {"labels": "multi_label_classification", "value": "regression"}
    if case.variant in known:
        settings["problem_type"] = known[case.variant]
    config = kind(**settings)
    text = config.get_text_config()
    for part in {id(config): config, id(text): text}.values():
        if getattr(part, "pad_token_id", 0) is None or case.variant:
            part.pad_token_id = 0
        if isinstance(getattr(part, "decoder_start_token_id", 0), type(None)):
            part.decoder_start_token_id = 1
    return config


def model_of(case: Case, tier: int) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    net: nn.Module = getattr(transformers, case.name)(configuration(case, tier))
    return net.eval()


# --- inputs and labels -----------------------------------------------------------------------------------------------


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _indices(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def _size(config: Any, *names: str, default: Any) -> Any:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        for name in names:
            if part is not None and getattr(part, name, None) is not None:
                return getattr(part, name)
    return default


def inputs_of(case: Case, model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the model may be called with, the likeliest first."""
    config, takes = model.config, inspect.signature(model.forward).parameters
    words = _indices(20, 60, N, L)
    end = getattr(config.get_text_config(), "eos_token_id", None)
    if isinstance(end, int):
        words[:, -1] = end  # where encoders and decoders read the class
    main = getattr(model, "main_input_name", "input_ids")
    image = _size(config, "image_size", default=64)
    height, width = image if isinstance(image, (list, tuple)) else (image, image)
    if "MultipleChoice" in case.name:
        yield {"input_ids": _indices(20, 60, N, LABELS, L)}
    if "pixel_values" in takes and ("input_ids" not in takes or main == "pixel_values"):
        channels = _size(config, "num_channels", "in_channels", default=3)
        frames = _size(config, "num_frames", default=4)
        decoder = {"decoder_input_ids": words} if "decoder_input_ids" in takes else {}
        decoder |= {"input_ids": words} if "input_ids" in takes else {}
        for side in ((height, width), (64, 64), (224, 224)):
            yield {"pixel_values": _random(N, channels, *side), **decoder}
            if "Video" in case.name:
                yield {"pixel_values": _random(N, frames, channels, *side)}
    if "input_features" in takes:
        bins = _size(config, "num_mel_bins", "feature_size", "input_dim", "input_size", default=80)
        positions = _size(config, "max_source_positions", default=32)
        decoder = {"decoder_input_ids": words} if "decoder_input_ids" in takes else {}
        yield {"input_features": _random(N, bins, 2 * positions), **decoder}
        wide = _size(config, "feature_projection_input_dim", default=bins)
        yield {"input_features": _random(N, 64, wide), **decoder}
    if "input_values" in takes:
        decoder = {"decoder_input_ids": words} if "decoder_input_ids" in takes else {}
        yield {"input_values": _random(N, 4000), **decoder}
        yield {"input_values": _random(N, 1024, _size(config, "num_mel_bins", default=128))}
    if "input_ids" in takes:
        decoder = {"decoder_input_ids": _indices(20, 60, N, L, seed=1)} if "decoder_input_ids" in takes else {}
        boxes = {"bbox": torch.zeros(N, L, 4, dtype=torch.long)} if "bbox" in takes else {}
        yield {"input_ids": words, **decoder, **boxes}
        yield {"input_ids": words, "attention_mask": torch.ones(N, L, dtype=torch.long), **decoder, **boxes}
        if "pixel_values" in takes:
            picture = {"pixel_values": _random(N, _size(config, "num_channels", default=3), height, width)}
            yield {"input_ids": words, **picture, **decoder, **boxes}
    if "past_values" in takes:
        length, channels = _size(config, "context_length", default=64), _size(config, "num_input_channels", default=1)
        yield {"past_values": _random(N, length, channels)}


def labels_of(
    case: Case, model: nn.Module, inputs: dict[str, Tensor], logits: Tensor | None
) -> Iterator[dict[str, Any]]:
    """Labels as the model takes them, the likeliest first; some do not count where models have such."""
    takes = inspect.signature(model.forward).parameters
    if "start_positions" in takes:
        yield {"start_positions": torch.tensor([1, 4]), "end_positions": torch.tensor([3, 7])}
    if "next_sentence_label" in takes and "labels" in takes:
        yield {"labels": _indices(3, 60, N, L, seed=2), "next_sentence_label": _indices(0, 2, N)}
    shape = () if logits is None else tuple(logits.shape)
    for labels in _labels(case, model, inputs, shape) if "labels" in takes else ():
        yield {"labels": labels}


def _labels(case: Case, model: nn.Module, inputs: dict[str, Tensor], shape: tuple[int, ...]) -> Iterator[Tensor]:
    if case.variant == "labels":
        yield _indices(0, 2, N, LABELS).float()
    if case.variant == "value":
        yield from (_random(N, 1), _random(N))
    if len(shape) == 2:
        yield from (_indices(0, shape[1], N), _indices(0, 2, *shape).float())
    if "Segmentation" in case.name and "pixel_values" in inputs:
        maps = _indices(0, LABELS, N, *inputs["pixel_values"].shape[-2:])
        maps[:, :3] = int(getattr(model.config, "semantic_loss_ignore_index", 255))
        yield maps
    if len(shape) == 3:
        words = next((inputs[k] for k in ("decoder_input_ids", "input_ids") if k in inputs), None)
        for places in dict.fromkeys([shape[:2], shape[:2] if words is None else tuple(words.shape[:2])]):
            some = _indices(min(3, shape[2] - 1), shape[2], *places, seed=2)
            holes = some.clone()
            holes.view(-1)[1::5] = -100
            yield from (holes, some)
    if "CTC" in case.name:
        yield _indices(1, 20, N, 3)
    if shape:
        yield _random(*shape).abs()
