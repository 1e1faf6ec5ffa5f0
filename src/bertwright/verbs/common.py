"""What several verbs share: reading labelled rows, and the directory of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bertwright.config import config_to_dict, dump_recipe, load_recipe, require
from bertwright.errors import CheckpointError, ConfigError, ModelLoadError, UnknownChoiceError
from bertwright.evaluate.measure import model_folder
from bertwright.files import atomic_write_text, read_json
from bertwright.models.multi import head_folder
from bertwright.tasks import Task, find_task
from bertwright.training.keeper import FREE_TO_CHANGE

if TYPE_CHECKING:
    from bertwright.data.labels import LabelSet
    from bertwright.data.rows import Rows
    from bertwright.data.tokenise import EncodedRows
    from bertwright.engines.base import EngineSpec
    from bertwright.models.task_model import TaskModel
    from bertwright.training.config import TrainingConfig
    from bertwright.training.loop import TrainResult

__all__ = [
    "TRAINING_BASICS",
    "DataConfig",
    "InputConfig",
    "TrainedResult",
    "open_run_dir",
    "output_labels",
    "read_parts",
    "read_rows",
    "read_train_and_eval",
    "save_trained",
    "saved_task",
    "serving_model",
    "tokenise_both",
]

TRAINING_BASICS = (
    "epochs",
    "lr",
    "batch_size",
    "max_length",
    "precision",
    "patience",
    "max_steps",
    "minutes",
    "seed",
    "threads",
)
"""The training options that a help page shows first."""

BEFORE_TRAINING = ("recipe.yaml", "rejected*.jsonl", "transfer.jsonl")
"""Files of a run that did not get as far as training: they may be replaced."""

MAY_CHANGE_ON_RESUME = ("resume", *FREE_TO_CHANGE)


@dataclass(frozen=True, kw_only=True)
class TrainedResult:
    """What a training verb gives back."""

    run_dir: Path
    model_dir: Path
    primary: str
    """Name of the metric that chose the weights."""
    score: float | None
    """None when there were no rows to evaluate on."""
    metrics: dict[str, float]
    """On the evaluation rows, of the weights kept."""
    num_rows: int
    num_eval_rows: int
    num_layers: int
    parameters: int
    steps: int
    seconds: float
    tokens_per_s: float
    stopped: str
    """Why training ended."""


class TrainingVerbConfig(Protocol):
    """What the configs of `finetune` and `distil` have in common."""

    @property
    def data(self) -> str: ...
    @property
    def eval_data(self) -> str | None: ...
    @property
    def eval_share(self) -> float: ...
    @property
    def reading(self) -> DataConfig: ...
    @property
    def training(self) -> TrainingConfig: ...


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How rows of text are read."""

    text_column: str | None = None
    """Column with the text. Found by name when not given: text, sentence, query, ..."""
    text_b_column: str | None = None
    """Column with the second text of a pair. Found by name when not given."""
    column: tuple[str, ...] = ()
    """Any other column, ROLE=NAME (context=passage); may be given several times. The roles are
    those of the task; each is found by name when not given."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be used stops the command, or is skipped and kept in rejected.jsonl."""
    max_rows: int | None = None
    """Use only so many rows, drawn at random, to try things small."""

    def __post_init__(self) -> None:
        require(self.max_rows is None or self.max_rows > 0, "max_rows", self.max_rows, "above 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig(InputConfig):
    """How labelled rows are read."""

    label_column: str | None = None
    """Column with the label. Found by name when not given: label, intent, class, ..."""


def read_rows(
    source: str,
    config: InputConfig,
    task: Task,
    *,
    labels: LabelSet | None = None,
    need_label: bool = True,
    rejected_path: Path | None = None,
    split: str = "train",
) -> Rows:
    """Load a task's rows from `source` as the options say. Errors are those of `load_rows`."""
    from bertwright.data.load import load_rows

    given = {
        "text": config.text_column,
        "text_b": config.text_b_column,
        "label": config.label_column if isinstance(config, DataConfig) else None,
    }
    columns = {role: name for role, name in given.items() if name is not None}
    columns |= _read_columns(config.column, task)
    return load_rows(
        source,
        schema=task.schema,
        columns=columns,
        labels=labels,
        need_label=need_label,
        on_bad_row=config.on_bad_row,
        rejected_path=rejected_path,
        max_rows=config.max_rows,
        split=split,
    )


def _read_columns(words: Sequence[str], task: Task) -> dict[str, str]:
    """Return what `--column ROLE=NAME` says, by role.

    Raises:
        ConfigError: a word is of another form.
        UnknownChoiceError: the task has no such role.
    """
    columns = {}
    for word in words:
        role, equals, name = word.partition("=")
        if not (equals and role and name):
            raise ConfigError(f"--column {word}: not of the form ROLE=NAME")
        if role not in task.schema.roles:
            raise UnknownChoiceError(f"column of the task {task.name}", role, task.schema.roles)
        columns[role] = name
    return columns


def read_train_and_eval(
    config: TrainingVerbConfig, run_dir: Path, task: Task, *, labels: LabelSet | None = None
) -> tuple[Rows, Rows]:
    """Read the rows to train on and those to evaluate on: `eval_data`, or a share held out.

    Rejected rows are written to the run directory. Errors are those of `load_rows`.
    """
    return read_parts(
        config.data,
        config.eval_data,
        config.reading,
        task,
        run_dir,
        labels=labels,
        eval_share=config.eval_share,
        seed=config.training.seed,
    )


def read_parts(
    data: str,
    eval_data: str | None,
    reading: InputConfig,
    task: Task,
    run_dir: Path,
    *,
    labels: LabelSet | None = None,
    eval_share: float,
    seed: int,
    suffix: str = "",
) -> tuple[Rows, Rows]:
    """Read rows to train on and to evaluate on; `suffix` goes into the names of rejected files.

    Errors are those of `load_rows`.
    """
    from bertwright.data.rows import split_rows

    rows = read_rows(
        data, reading, task, labels=labels, rejected_path=run_dir / f"rejected{suffix}.jsonl"
    )
    if eval_data is None:
        return split_rows(rows, share=eval_share, seed=seed)
    eval_rows = read_rows(
        eval_data,
        reading,
        task,
        labels=rows.labels if task.names_outputs else None,
        rejected_path=run_dir / f"rejected-eval{suffix}.jsonl",
        split="validation",
    )
    return rows, eval_rows


def output_labels(task: Task, row_labels: LabelSet | None) -> list[str]:
    """Return the labels of the rows, where they name what the model gives."""
    return list(row_labels.names) if row_labels is not None and task.names_outputs else []


def tokenise_both(
    rows: tuple[Rows, Rows],
    model: TaskModel,
    task: Task,
    *,
    long_rows: Literal["truncate", "stop"],
    taught: bool = False,
) -> tuple[EncodedRows, EncodedRows]:
    """Return the rows to train on and those to evaluate on as the model takes them.

    With `taught` a teacher answers the rows to train on.
    Errors are those of `tokenise`.
    """
    from bertwright.data.tokenise import tokenise

    first = task.taught_encoder if taught else task.training_encoder
    train_rows, eval_rows = (
        tokenise(
            part,
            model.tokenizer,
            encoder=encoder,
            max_length=model.max_length,
            long_rows=long_rows,
        )
        for part, encoder in zip(rows, (first, task.encoder), strict=True)
    )
    return train_rows, eval_rows


def refuse_full(out: Path) -> None:
    """Check that a folder to write is not there, or empty.

    Raises:
        ConfigError: there is something in it, or it is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists and is not empty", hint="choose another folder")


def saved_task(model: str, option: str = "--model") -> tuple[Task, LabelSet | None]:
    """Return the task and the labels (if it has any) of a run, model or exported folder.

    Raises:
        ModelLoadError: it is not such a folder.
    """
    from bertwright.data.labels import LabelSet

    facts = _saved_facts(model, option)
    names = tuple(map(str, facts["labels"]))
    return find_task(facts["task"]), LabelSet(names) if names else None


def serving_model(model: str, engine: str | None) -> tuple[Path, EngineSpec]:
    """Return the folder to predict with, and the engine and precision to run it in.

    `model` may be a model folder, an exported one, or a run. The run of `compress` has an artifact
    for the engine that was chosen; it is taken when no engine is given, or this very one. Without
    an artifact and an engine, it is torch in fp32.

    Raises:
        ModelLoadError: there is no such folder.
        ArtifactError: the artifact is damaged.
        UsageError: no such engine or precision.
    """
    from bertwright.engines.artifact import ARTIFACT_FILE, Artifact
    from bertwright.engines.base import EngineSpec

    given = None if engine is None else EngineSpec.parse(engine)
    for folder in (Path(model), Path(model) / "artifact"):
        if (folder / ARTIFACT_FILE).exists():
            own = Artifact.load(folder).spec
            if given is None or given == own:
                return folder, own
    _saved_facts(model)
    return model_folder(model), given or EngineSpec()


def _saved_facts(model: str, option: str = "--model") -> dict[str, Any]:
    file = model_folder(head_folder(model, None)) / "bertwright.json"
    if not file.exists():
        raise ModelLoadError(
            f"{option} {model}: not a trained model (there is no {file})",
            hint="give the --out folder of finetune, distil, compress or export",
        )
    return read_json(file)


def open_run_dir(verb: str, config: Any, *, may_change: Collection[str] = ()) -> Path:
    """Make the run directory `config.out` with its recipe.yaml, or check that it can be resumed.

    Args:
        verb: goes into the recipe.
        config: has `out` and `resume`.
        may_change: options that a resumed run may have otherwise, beside those that no run
            depends on; the recipe then tells the new ones.

    Raises:
        ConfigError: it holds something already and `config.resume` is off, or its recipe differs.
        CheckpointError: `config.resume` is on and there is no recipe to resume.
    """
    run_dir = Path(config.out)
    recipe = run_dir / "recipe.yaml"
    values = config_to_dict(config) | {"resume": False}
    if config.resume and run_dir.exists():
        if not recipe.exists():
            raise CheckpointError(
                f"{run_dir} has no recipe.yaml, so there is nothing to resume",
                hint="give the --out of the run that was broken off",
            )
        was_verb, was = load_recipe(recipe)
        changed = _differences(was, values, {*MAY_CHANGE_ON_RESUME, *may_change})
        if was_verb != verb or changed:
            what = f"verb {was_verb} -> {verb}" if was_verb != verb else "; ".join(changed)
            raise ConfigError(
                f"--resume {run_dir}: the options differ from the run's recipe ({what})",
                hint="resume with the same options, or start anew with another --out",
            )
        _write_recipe(recipe, verb, config)
        return run_dir
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--out {run_dir} is a file", hint="choose a folder")
    if run_dir.exists() and any(not _is_early(path) for path in run_dir.iterdir()):
        raise ConfigError(
            f"--out {run_dir} exists and is not empty",
            hint="choose another folder, or --resume to carry a broken-off run on",
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_recipe(recipe, verb, config)
    return run_dir


def _is_early(path: Path) -> bool:
    return any(path.match(pattern) for pattern in BEFORE_TRAINING)


def _write_recipe(recipe: Path, verb: str, config: Any) -> None:
    text = dump_recipe(verb, replace(config, resume=False))
    atomic_write_text(recipe, f"# to repeat it: bertwright run {recipe} --out ANOTHER\n{text}")


def save_trained(
    model: TaskModel,
    result: TrainResult,
    run_dir: Path,
    *,
    num_rows: int,
    num_eval_rows: int,
) -> TrainedResult:
    """Write the trained model, with its scores in its lineage, to `run_dir/model`."""
    model.lineage = {**model.lineage, "scores": result.metrics, "steps": result.steps}
    model.save(run_dir / "model")
    return TrainedResult(
        run_dir=run_dir,
        model_dir=run_dir / "model",
        primary=result.primary,
        score=result.best_score,
        metrics=result.metrics,
        num_rows=num_rows,
        num_eval_rows=num_eval_rows,
        num_layers=model.roles.num_layers,
        parameters=model.num_parameters,
        steps=result.steps,
        seconds=result.seconds,
        tokens_per_s=result.tokens_per_s,
        stopped=result.stopped,
    )


def _differences(
    was: dict[str, Any], now: dict[str, Any], may_change: Collection[str], prefix: str = ""
) -> list[str]:
    found: list[str] = []
    for key in now:
        before, after = was.get(key), now[key]
        if key in may_change:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, may_change, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found
