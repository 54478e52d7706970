"""For models of transformers that have a loss of their own, main's loss by default is that loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.nn.functional import cross_entropy

import deepsup as ds
from deepsup.errors import ConfigError, HeadError, OutputError

TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "num_key_value_heads": 2,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}
TOKENS = {"input_ids": torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(0))}
PICTURES = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
CLASSES, WORDS = torch.tensor([2, 0]), torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(1))
TAGS = torch.tensor([[0, 1, 2, 0, -100, 1, 2, 2, -100], [1, 1, 0, 2, 2, -100, 0, 1, 2]])
HOT, NUMBERS = torch.tensor([[1.0, 0, 1], [0, 0, 1]]), torch.tensor([[0.3], [-1.2]])
PIXELS = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}
VALUE = {"num_labels": 1, "problem_type": "regression"}

Case: TypeAlias = tuple[Callable[[], Any], dict[str, Tensor], Tensor, str]


def of(architecture: str, head: str, **config: Any) -> Callable[[], Any]:
    """What makes a small model: `of("Bert", "ForMaskedLM", vocab_size=40)`."""
    return lambda: getattr(hf, architecture + head)(getattr(hf, f"{architecture}Config")(**config))


CASES: dict[str, Case] = {
    "GPT2 LM": (
        of("GPT2", "LMHeadModel", vocab_size=40, n_embd=16, n_layer=2, n_head=2),
        TOKENS,
        WORDS,
        "40 classes on the last",
    ),
    "Llama LM": (of("Llama", "ForCausalLM", **TEXT), TOKENS, WORDS, "40 classes on the last axis"),
    "Mistral LM": (of("Mistral", "ForCausalLM", **TEXT), TOKENS, WORDS, "40 classes on the last axis"),
    "Llama tokens": (
        of("Llama", "ForTokenClassification", **TEXT, num_labels=3),
        TOKENS,
        TAGS,
        "3 classes on the last axis",
    ),
    "ViT": (of("ViT", "ForImageClassification", **IMAGE), PICTURES, CLASSES, "3 classes, (N, 3)"),
    "DeiT": (of("DeiT", "ForImageClassification", **IMAGE), PICTURES, CLASSES, "3 classes, (N, 3)"),
}
DECODER: dict[str, Any] = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
for name in ("Bart", "Pegasus", "MBart"):  # which do not shift their labels, whatever their name
    CASES[f"{name} decoder"] = (
        of(name, "ForCausalLM", **DECODER, vocab_size=40, max_position_embeddings=32),
        TOKENS,
        WORDS,
        "40 classes on the last axis",
    )
small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
CASES["ResNet"] = (of("ResNet", "ForImageClassification", **small), PICTURES, CLASSES, "3 classes, (N, 3)")
stages = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
}
stages |= {"strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
segformer = of("Segformer", "ForSemanticSegmentation", **stages, decoder_hidden_size=16, num_labels=3)
CASES["Segformer"] = (segformer, PICTURES, PIXELS, "3 classes on axis 1")
CASES["Segformer with void"] = (segformer, PICTURES, PIXELS.masked_fill(PIXELS == 1, 255), "3 classes on axis 1")
for name in ("Bert", "Roberta", "Electra", "Ernie"):
    sequence = partial(of, name, "ForSequenceClassification", **TEXT)
    tokens = of(name, "ForTokenClassification", **TEXT, num_labels=3)
    CASES |= {
        f"{name} class": (sequence(num_labels=3), TOKENS, CLASSES, "3 classes, (N, 3)"),
        f"{name} labels": (sequence(**SEVERAL), TOKENS, HOT, "3 labels, (N, 3)"),
        f"{name} value": (sequence(**VALUE), TOKENS, NUMBERS, "1 value, (N, 1)"),
        f"{name} tokens": (tokens, TOKENS, TAGS, "3 classes on the last axis"),
        f"{name} masked": (of(name, "ForMaskedLM", **TEXT), TOKENS, WORDS, "40 classes on the last axis"),
    }


@pytest.mark.parametrize("name", CASES)
def test_the_default_loss_of_main_is_the_models_own(name: str) -> None:
    torch.manual_seed(0)
    make, inputs, labels, says = CASES[name]
    model = make().eval()  # dropout would draw differently twice
    with torch.no_grad():
        own = model(**inputs, labels=labels).loss
    plan = ds.plan(model, inputs, at=["50%"], main="logits")
    assert f" of {says}" in str(plan)
    net = ds.attach(model, plan).eval()
    with torch.no_grad(), ds.supervising(net):
        outputs = net(**inputs)
        terms = ds.Objective(plan)(outputs, labels)
    assert torch.allclose(terms.parts["main"], own, rtol=5e-6), (terms.parts["main"], own)
    (branch,) = plan.branches
    assert torch.isfinite(terms.parts[branch.name])
    assert branch.predicts


SOUND: dict[str, Any] = {
    **{key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
REFUSED = {
    "two answers": (of("Bert", "ForQuestionAnswering", **TEXT), TOKENS, OutputError, "start_logits .* end_logits"),
    "masked and next": (of("Bert", "ForPreTraining", **TEXT), TOKENS, OutputError, "prediction_logits"),
    "a value where classes alone are learnt": (
        of("Wav2Vec2", "ForSequenceClassification", **SOUND, **VALUE),
        {"input_values": torch.randn(2, 400)},
        ConfigError,
        "Wav2Vec2ForSequenceClassification has a loss of its own, and none of deepsup's equals it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_none_of_ours_equals_is_refused_by_name(name: str) -> None:
    make, inputs, error, says = REFUSED[name]
    with pytest.raises(error, match=says):
        ds.plan(make(), inputs, at=["50%"])


@pytest.mark.parametrize("says", [None, "single_label_classification", "multi_label_classification"])
def test_floats_for_every_class_are_never_read_in_silence_as_the_model_would_not(says: str | None) -> None:
    torch.manual_seed(0)
    model = of("Bert", "ForSequenceClassification", **TEXT, num_labels=3, problem_type=says)().eval()
    plan = ds.plan(model, TOKENS, method="none")
    with torch.no_grad():
        output = model(**TOKENS)
        if says is None:
            with pytest.raises(
                HeadError, match="is several labels a sample to the loss that this model has of its own"
            ):
                ds.Objective(plan)(output, HOT)
        elif says == "single_label_classification":  # which takes no floats itself
            shares = HOT / HOT.sum(1, keepdim=True)
            assert torch.allclose(ds.Objective(plan)(output, shares).total, cross_entropy(output.logits, shares))
        else:
            own = model(**TOKENS, labels=HOT).loss
            assert torch.allclose(ds.Objective(plan)(output, HOT).total, own)
