"""`TaskModel`: an encoder, a pooling and a head, with all that is needed to use them again.

Shapes: B batch, L length, D model width, N heads, C classes, K layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertwright.config import config_from_dict, config_to_dict
from bertwright.errors import (
    BertwrightError,
    CheckpointError,
    ConfigError,
    ModelLoadError,
    UsageError,
)
from bertwright.files import atomic_dir, write_json
from bertwright.models.encoder import (
    encoder_home,
    find_model_dir,
    load_encoder,
    load_tokenizer,
    quiet_transformers,
    save_encoder,
)
from bertwright.models.exits import Exits, load_exits
from bertwright.models.first_token import FirstTokenAlone
from bertwright.models.heads import HeadConfig, VectorHead, build_head
from bertwright.models.manifest import (
    FORMAT_VERSION,
    HEADS,
    MANIFEST,
    check_file,
    read_manifest,
    read_outputs,
)
from bertwright.models.outputs import Outputs, OutputScale
from bertwright.models.pooling import EncoderShape, Pooling, States, build_pooling, check_pooling
from bertwright.models.ranges import LearnedRanges
from bertwright.models.recorder import Recorder
from bertwright.models.roles import Roles, get_roles
from bertwright.models.token_drop import TokenDrop, run_with_fewer
from bertwright.surgery.plan import SurgeryPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "FORMAT_VERSION",
    "ModelConfig",
    "TaskModel",
    "TaskOutput",
]

_XLNET_CLS_SEGMENT = 2


@dataclass(frozen=True, kw_only=True)
class ModelConfig(HeadConfig):
    """What stands on the encoder: a pooling and a head."""

    pooling: str | None = None
    """How token states become one vector: cls, mean, max, weighted-layers:4, wk, ... (all of them:
    bertwright methods). Without it mean where vectors are wanted or the encoder is frozen, else
    cls."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is out of range.
            UnknownChoiceError: there is no such pooling.
        """
        super().__post_init__()
        if self.pooling is not None:
            check_pooling(self.pooling)


@dataclass
class TaskOutput:
    """What a forward pass gives."""

    logits: Tensor
    """[B, C], or [B, L, C] where the task wants outputs a token."""
    pooled: Tensor | None
    """[B, D]; None where there are outputs a token."""
    hidden_states: tuple[Tensor, ...] | None = None
    """K+1 of [B, L, D]: what entered each layer, then what the encoder returned."""
    attentions: tuple[Tensor, ...] | None = None
    """K of [B, N, L, L]: the attention probabilities."""


class TaskModel(nn.Module):
    """An encoder with a pooling and a head; saved as a directory."""

    rows_begin_at_0 = False
    """Whether every row is known to be padded on the right."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        task: str,
        labels: Sequence[str],
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        surgery: SurgeryPlan | None = None,
        lineage: dict[str, Any] | None = None,
        max_length: int = 128,
        outputs: Outputs | None = None,
        decoding: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a new head on `encoder`; see `build_task_model` for the usual way in.

        Raises:
            UsageError: two labels are the same, or there are none and `outputs` is not given.
            ConfigError: `max_length` is more than the encoder has positions for, or the pooling's
                number does not fit it.
            UnsupportedFamilyError: the encoder is of an unknown family.
        """
        super().__init__()
        roles = get_roles(encoder)
        names = [str(label) for label in labels]
        if len(set(names)) != len(names) or not (names or outputs):
            raise UsageError(f"labels must be given, each once; got {names[:8]}")
        outputs = outputs or Outputs(len(names))
        if outputs.kind in ("classes", "labels") and outputs.count != len(names):
            raise UsageError(f"{len(names)} labels for {outputs.count} outputs")
        limit = roles.max_length
        if max_length < 1 or (limit is not None and max_length > limit):
            raise ConfigError(
                f"--max-length {max_length}: must be 1 to {limit or 'any number'} for this encoder"
            )
        if config.pooling is None:
            config = replace(config, pooling="mean" if outputs.kind == "vectors" else "cls")
        self.encoder = encoder
        self.pooling: Pooling | None = None
        """None where there are outputs a token."""
        if outputs.level != "token":
            self.pooling = build_pooling(str(config.pooling), self.encoder_shape)
        width = self.pooling.width if self.pooling else None
        self.head = build_head(encoder.config, outputs, config, names, width=width)
        if isinstance(self.head, VectorHead):
            outputs = replace(outputs, count=self.head.width)
        self.outputs = outputs
        self.scale = OutputScale(outputs.count) if outputs.scaled else nn.Identity()
        self.task = task
        self.labels = names
        self.tokenizer = tokenizer
        self.config = config
        self.surgery = surgery or SurgeryPlan()
        self.lineage = dict(lineage or {})
        self.max_length = max_length
        self.decoding = dict(decoding or {})
        """What the task tuned for reading the outputs (thresholds); plain values."""
        self.ranges: LearnedRanges | None = None
        """What int8 is to use, where the model was trained with rounding (method `qat`)."""
        self.exits: Exits | None = None
        """Heads after earlier layers; `forward` knows nothing of them, `answer_early` does."""
        self.token_drop: TokenDrop | None = None
        """Tokens that are left out on the way, in eval mode; not where inner states are asked."""

    @property
    def roles(self) -> Roles:
        """Where the encoder keeps its parts."""
        return get_roles(self.encoder)

    @property
    def encoder_shape(self) -> EncoderShape:
        """What a pooling has to know of the encoder."""
        config = self.encoder.config
        return EncoderShape(
            width=int(config.hidden_size),
            num_layers=self.roles.num_layers,
            num_heads=int(config.num_attention_heads),
            vocab_size=int(config.vocab_size),
            cls_at_end=self.roles.cls_at_end,
        )

    @property
    def uses_token_types(self) -> bool:
        """Whether `token_type_ids` make a difference."""
        return self.roles.uses_token_types

    @property
    def num_parameters(self) -> int:
        """How many numbers the encoder and the head hold together."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        read: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        answer_alone: bool = False,
    ) -> TaskOutput:
        """Run the model.

        Args:
            input_ids: token ids, [B, L].
            attention_mask: 1 for real tokens, 0 for padding, [B, L].
            token_type_ids: 0 for the first text, 1 for the second, [B, L]; ignored where the
                family does not have them.
            read: what `read` gave for these texts before: the encoder, which is not trained then,
                is not run. There are no hidden states and no attentions.
            output_hidden_states: also return what enters each layer.
            output_attentions: also return the attention probabilities. For this call the encoder
                computes attention in the plain ("eager") way, which is slower.
            answer_alone: nothing but the answer is wanted, so what it does not need of the last
                layer is left out where that can be; the answer is the same but for rounding.
        """
        if read is not None:
            return self._answer(read, attention_mask)
        wanted = (output_hidden_states, output_attentions)
        alone = answer_alone and not any(wanted)
        states, attentions = self._encode(
            input_ids, attention_mask, token_type_ids, *wanted, answer_alone=alone
        )
        output = self.answer(states)
        output.hidden_states = states.layers if output_hidden_states else None
        output.attentions = attentions if output_attentions else None
        return output

    def answer(self, states: States) -> TaskOutput:
        """Return what pooling and head make of an encoder's states."""
        if self.pooling is None:
            return TaskOutput(self.head(states.last, states.mask), None)
        return self._judge(self.pooling(states))

    def read(self, states: States) -> Tensor:
        """Return what is needed of the encoder's states, before anything else that is trained.

        [B, ...] as `Pooling.read` says; the last states [B, L, D] where there are outputs a token.
        """
        return states.last if self.pooling is None else self.pooling.read(states)

    @property
    def reads_tokens(self) -> bool:
        """Whether what `read` gives has a state for each token, second to last."""
        return self.pooling is None or self.pooling.reads_tokens

    def _answer(self, read: Tensor, attention_mask: Tensor) -> TaskOutput:
        if self.pooling is None:
            return TaskOutput(self.head(read, attention_mask), None)
        return self._judge(self.pooling.learned(read, attention_mask.bool()))

    def _judge(self, pooled: Tensor) -> TaskOutput:
        return TaskOutput(self.scale(self.head(pooled)), pooled)

    def _encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        wants_states: bool,
        wants_attentions: bool,
        *,
        answer_alone: bool = False,
    ) -> tuple[States, tuple[Tensor, ...]]:
        """Return the encoder's states, as many as are asked for, and attentions likewise."""
        roles = self.roles
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "return_dict": True,
            **roles.forward_options,
        }
        if roles.uses_token_types:
            if token_type_ids is None and roles.cls_at_end:
                token_type_ids = _mark_last_token(attention_mask)
            inputs["token_type_ids"] = token_type_ids
        reads_layers = self.pooling is not None and self.pooling.reads_layers
        whole = self.training or wants_states or reads_layers or wants_attentions
        if self.token_drop is not None and not whole:
            hidden, went = run_with_fewer(
                roles, self.token_drop, input_ids, attention_mask, token_type_ids
            )
            # states of an inner layer would be strangers in a text's vector
            read = attention_mask if self.pooling is None else went
            return States((hidden,), read.bool(), input_ids, self.rows_begin_at_0), ()
        if answer_alone and self.pooling is not None and self.pooling.reads_cls_alone:
            with FirstTokenAlone(roles, attention_mask) as first:
                hidden = self.encoder(**inputs).last_hidden_state
            if hidden.shape[1] == 1:
                mask = attention_mask.bool().any(dim=1, keepdim=True)
                return States((hidden,), mask, first.first_of(input_ids)), ()
            return States((hidden,), attention_mask.bool(), input_ids, self.rows_begin_at_0), ()
        with Recorder(roles, wants_states or reads_layers, wants_attentions) as recorder:
            if wants_attentions and roles.asks_for_attentions:
                inputs["output_attentions"] = True
            hidden = self.encoder(**inputs).last_hidden_state
        layers = (*recorder.hidden_states, hidden)
        states = States(layers, attention_mask.bool(), input_ids, self.rows_begin_at_0)
        return states, tuple(recorder.attentions)

    @property
    def learned_parts(self) -> nn.ModuleDict:
        """What stands on the encoder and is saved with it: pooling, head, scale."""
        parts: dict[str, nn.Module] = {"head": self.head, "scale": self.scale}
        if self.pooling is not None:
            parts["pooling"] = self.pooling
        return nn.ModuleDict(parts)

    def save(self, path: str | Path) -> None:
        """Write the model as a directory, whole or not at all; one that is there is replaced.

        Raises:
            DiskFullError: there was no room; what was at `path` is untouched.
        """
        with atomic_dir(path) as folder:
            save_encoder(self.encoder, folder / "encoder")
            if self.tokenizer is not None:
                with quiet_transformers():
                    self.tokenizer.save_pretrained(folder)
            self.write_head(folder)

    def write_head(self, folder: Path) -> None:
        """Write all but the encoder and the tokenizer into a folder that is there."""
        save_file(self._head_tensors(), folder / HEADS)
        if self.exits is not None:
            self.exits.save(folder)
        write_json(folder / MANIFEST, self._manifest())

    def _head_tensors(self) -> dict[str, Tensor]:
        return {n: tensor.contiguous() for n, tensor in self.learned_parts.state_dict().items()}

    def _manifest(self) -> dict[str, Any]:
        head = config_to_dict(self.config)
        return {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "labels": self.labels,
            "outputs": config_to_dict(self.outputs),
            "pooling": head.pop("pooling"),
            "head": head,
            "surgery": self.surgery.to_json(),
            "decoding": self.decoding,
            "lineage": self.lineage,
            "max_length": self.max_length,
            **({} if self.ranges is None else {"ranges": self.ranges.to_json()}),
            **({} if self.exits is None else {"exits": self.exits.to_json()}),
            **({} if self.token_drop is None else {"token_drop": self.token_drop.to_json()}),
        }

    @classmethod
    def load(cls, path: str | Path) -> TaskModel:
        """Load what `save` wrote, in eval mode. `path` may also be a run directory.

        Raises:
            ModelLoadError: there is no saved model at `path`.
            CheckpointError: a file is missing, damaged, or of a newer version of bertwright.
        """
        folder = find_model_dir(path)
        if folder is None:
            raise ModelLoadError(
                f"{path} is not a model saved by bertwright (it has no {MANIFEST})",
                hint="give the directory that --out named, or its model/ folder",
            )
        manifest, home = read_manifest(folder / MANIFEST), encoder_home(folder)
        for file in ("config.json", "model.safetensors"):
            if file == "config.json" or not list((home / "encoder").glob("*.index.json")):
                check_file(home / "encoder" / file)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            if (home / file).exists():
                check_file(home / file)
        check_file(folder / HEADS)
        try:
            encoder, _ = load_encoder(home / "encoder")
            tokenizer = load_tokenizer(str(home))
        except BertwrightError as error:
            raise CheckpointError(f"{folder}: {error.message}", hint=error.hint) from error
        model = _from_manifest(encoder, tokenizer, manifest, folder / MANIFEST)
        _load_head(model, folder / HEADS)
        if "exits" in manifest:
            shape = (model.outputs.count, 2 * model.roles.hidden_size)
            depth = model.roles.num_layers
            model.exits = load_exits(manifest["exits"], folder, num_layers=depth, shape=shape)
        return model.eval()


def _mark_last_token(attention_mask: Tensor) -> Tensor:
    """Return segment ids [B, L] as XLNet's tokenizer gives: 0, and 2 for the last real token."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * positions).argmax(dim=1, keepdim=True)
    return (positions == last).long() * _XLNET_CLS_SEGMENT


def _from_manifest(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    manifest: dict[str, Any],
    path: Path,
) -> TaskModel:
    try:
        values = {**manifest["head"], "pooling": manifest["pooling"]}
        with torch.random.fork_rng(devices=[]):
            model = TaskModel(
                encoder,
                task=manifest["task"],
                labels=manifest["labels"],
                config=config_from_dict(ModelConfig, values, source=str(path)),
                tokenizer=tokenizer,
                surgery=SurgeryPlan.from_json(manifest["surgery"]),
                lineage=manifest["lineage"],
                max_length=manifest["max_length"],
                outputs=read_outputs(manifest, str(path)),
                decoding=manifest.get("decoding"),
            )
        if "ranges" in manifest:
            model.ranges = LearnedRanges.from_json(manifest["ranges"])
        if "token_drop" in manifest:
            model.token_drop = TokenDrop.from_json(manifest["token_drop"])
            if model.token_drop.layer >= model.roles.num_layers:
                raise UsageError(f"tokens are left out after layer {model.token_drop.layer}")
        return model
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _load_head(model: TaskModel, path: Path) -> None:
    try:
        model.learned_parts.load_state_dict(load_file(path))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{path} does not fit the head: {lines[-1].strip()}") from error
