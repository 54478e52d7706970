"""Every error deepsup raises on purpose. Each message says what was asked, what was found, what to do.

DeepsupError
├── LayerError(ValueError)            a layer cannot be used the way it was asked
│   ├── UnknownLayerError             no layer has that name, pattern, type or depth
│   ├── LayerNotCalledError           the layer never ran in the dry run
│   └── LayerReusedError              the layer ran more than once in one forward
├── HeadError(ValueError)             a head does not fit its activation or its target
│   ├── ContinuationError             the rest of the trunk cannot be repeated as asked
│   └── EmbeddingError                no layer, or no single one, makes the scores of an output
├── ClassCountError(ValueError)       the target has labels that the outputs have no class for
├── OutputError(TypeError)            no prediction or activation found in what the model returned
│   └── TermsError(AttributeError)    terms were used as the tensor that their total is
├── BranchNameError(KeyError)         a weight, loss or output names a branch that is not there
├── PlanError(ValueError)             the plan does not belong to this model, or cannot be stored
├── AttachError(RuntimeError)         this model cannot be supervised in its present state
│   ├── AlreadyAttachedError          it is supervised already
│   ├── CompiledModelError            it was compiled before the taps were there
│   ├── DataParallelError             nn.DataParallel copies the model per device on every call
│   └── TapError                      a tap did not fire, fired twice, or lost its gradient
├── ExportError(RuntimeError)         a net, or a part of it, cannot be exported, or would answer otherwise
├── NonFiniteError(ArithmeticError)   a loss became infinite or NaN
├── ConfigError(ValueError)           a configuration, schedule text or option is wrong
│   └── TrustError                    a file asks for code that only a person may ask for
├── DatasetError(ValueError)          a dataset is empty, missing or corrupt
├── CheckpointError(RuntimeError)     a checkpoint is truncated, foreign or from another version
├── CertificateError(RuntimeError)    a strip certificate does not hold
└── MissingPackageError(ImportError)  an optional package is not installed
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


class DeepsupError(Exception):
    """Base of every error that deepsup raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr, with escaped newlines
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class LayerError(DeepsupError, ValueError):
    """A layer cannot be used the way it was asked."""


class UnknownLayerError(LayerError):
    """No layer has that name, pattern, type or depth."""


class LayerNotCalledError(LayerError):
    """The layer never ran in the dry run, so there is nothing to read."""


class LayerReusedError(LayerError):
    """The layer ran more than once in one forward, so its output is ambiguous."""


class HeadError(DeepsupError, ValueError):
    """A head does not fit the activation it reads or the target it must predict."""


class ContinuationError(HeadError):
    """What follows a layer cannot be repeated as asked: not traced, not cut there, or not at that width."""


class EmbeddingError(HeadError):
    """No layer, or no single one, makes the scores of an output from one vector a sample, so it has no embedding."""


class ClassCountError(DeepsupError, ValueError):
    """The target has labels that the outputs have no class for."""


class OutputError(DeepsupError, TypeError):
    """No prediction or activation could be found in what the model or a layer returned."""


class TermsError(OutputError, AttributeError):
    """What an objective gives was used as a tensor; its `total` is one."""


class BranchNameError(DeepsupError, KeyError):
    """A weight, loss, schedule or output names a branch that is not there."""


class PlanError(DeepsupError, ValueError):
    """The plan does not belong to this model, or cannot be stored or read."""


class AttachError(DeepsupError, RuntimeError):
    """This model cannot be supervised in its present state."""


class AlreadyAttachedError(AttachError):
    """The model is supervised already."""


class CompiledModelError(AttachError):
    """The model was compiled before the taps were there, so they would never fire."""


class DataParallelError(AttachError):
    """`nn.DataParallel` copies the model on every call; use DistributedDataParallel."""


class TapError(AttachError):
    """A tap did not fire, fired twice, or read a tensor that no gradient can flow through."""


class ExportError(DeepsupError, RuntimeError):
    """A net, or a part of it, cannot be exported, or what was exported would answer otherwise."""


class NonFiniteError(DeepsupError, ArithmeticError):
    """A loss became infinite or NaN; the message names the branch."""


class ConfigError(DeepsupError, ValueError):
    """A configuration, schedule text or option is wrong."""


class TrustError(ConfigError):
    """A file asks for code that is neither deepsup's nor a known library's, and nobody has allowed it."""


class DatasetError(DeepsupError, ValueError):
    """A dataset is empty, missing or corrupt."""


class CheckpointError(DeepsupError, RuntimeError):
    """A checkpoint is truncated, foreign or from another version."""


class CertificateError(DeepsupError, RuntimeError):
    """A strip certificate does not hold for this model."""


class MissingPackageError(DeepsupError, ImportError):
    """An optional package is not installed; the message says which extra to install."""


def stacklevel() -> int:
    """For a `warnings.warn` in the function that asks: the warning points at whoever called the package, never into it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level
