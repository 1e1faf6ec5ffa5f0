from __future__ import annotations

from dataclasses import dataclass

import pytest

from bertwright.errors import ConfigError
from bertwright.verbs.common import open_run_dir
from bertwright.verbs.run import RunConfig, run


@dataclass(frozen=True, kw_only=True)
class Config:
    out: str
    lr: float = 0.1
    resume: bool = False
    threads: int | None = None


def test_a_run_folder_is_new_or_resumed(tmp_path):
    out = str(tmp_path / "a" / "run")
    folder = open_run_dir("verb", Config(out=out))
    assert (folder / "recipe.yaml").read_text().startswith("# to repeat it: bertwright run ")
    open_run_dir("verb", Config(out=out, lr=0.2))  # nothing was trained yet: options may change
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        open_run_dir("verb", Config(out=out, lr=0.2))
    assert open_run_dir("verb", Config(out=out, lr=0.2, resume=True, threads=3)) == folder
    with pytest.raises(ConfigError, match=r"lr: 0\.2 -> 0\.3"):
        open_run_dir("verb", Config(out=out, lr=0.3, resume=True))
    with pytest.raises(ConfigError, match="verb verb -> other"):
        open_run_dir("other", Config(out=out, lr=0.2, resume=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        open_run_dir("verb", Config(out=str(tmp_path / "file")))


def test_resuming_what_was_never_begun_begins_it(tmp_path):
    folder = open_run_dir("verb", Config(out=str(tmp_path / "new"), resume=True))
    assert "resume: false" in (folder / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("verb: fintune", "did you mean 'finetune'?"),
        ("verb: run\nrecipe: x", "cannot run another recipe"),
        ("verb: finetune\ndata: d\nout: o\nepoch: 3", "unknown key 'epoch'"),
        ("verb: finetune\ndata: d", "'out' is missing"),
        ("verb: finetune\ndata: d\nout: o\ntraining: {lr: -1}", "--lr -1.0: must be above 0"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        run(RunConfig(recipe=str(path)))
    assert words in str(caught.value)
