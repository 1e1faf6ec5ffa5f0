from __future__ import annotations

import subprocess
import sys

import pytest

import bertwright
from bertwright.errors import ConfigError
from bertwright.verbs import VERBS

LEAN = """
import logging, os, sys, time, warnings
handlers, level = list(logging.root.handlers), logging.root.level
environment, filters = dict(os.environ), list(warnings.filters)
began = time.perf_counter()
import bertwright
seconds = time.perf_counter() - began
assert seconds < 1, seconds
heavy = {'torch', 'transformers', 'datasets', 'numpy', 'rich', 'tyro', 'yaml'} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == environment
assert logging.root.handlers == handlers and logging.root.level == level
assert warnings.filters == filters
assert bertwright.__version__
"""


def test_the_import_is_lean():
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WITHOUT_TORCH_MODELS = """
import sys
import bertwright.engines.openvino_engine, bertwright.engines.onnx_engine
import bertwright.engines.predictor, bertwright.verbs.predict
heavy = {'transformers.modeling_utils', 'torch._dynamo', 'sklearn', 'scipy'} & set(sys.modules)
assert not heavy, heavy
"""


def test_what_answers_from_an_exported_folder_imports_no_code_of_torch_models():
    pytest.importorskip("openvino")
    code = [sys.executable, "-c", WITHOUT_TORCH_MODELS]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_verb_is_a_function_of_the_package():
    for name in VERBS:
        assert name in bertwright.__all__ and name in dir(bertwright)
        assert callable(getattr(bertwright, name)), name
    for name in bertwright.__all__:
        assert getattr(bertwright, name) is not None


def test_a_verb_that_shares_its_name_with_a_subpackage_is_both():
    import bertwright.evaluate.machine
    import bertwright.methods

    assert bertwright.evaluate.machine.machine()["cores"] >= 1
    assert [card.name for card in bertwright.methods(name="theseus")] == ["theseus"]
    with pytest.raises(ConfigError, match=r"bertwright.evaluate\(\): 'model' is missing"):
        bertwright.evaluate(data="x")


def test_an_unknown_argument_is_named():
    with pytest.raises(ConfigError, match=r"bertwright.finetune\(\): unknown argument 'epoch'"):
        bertwright.finetune(data="d", out="o", epoch=3)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'finetuned'"):
        bertwright.finetuned  # noqa: B018
