"""Nothing is told to anybody: not by OpenVINO's converter, not by NNCF."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from openvino_telemetry.utils.opt_in_checker import OptInChecker
from openvino_telemetry.utils.sender import TelemetrySender
from bertwright.engines.base import EngineSpec, load_engine
from engines_models import inputs_of, make_model

sent = []
TelemetrySender.send = lambda self, *args, **options: sent.append(str(args))
before = OptInChecker().check(False, True).name
engine = load_engine(EngineSpec("openvino", "int8"), compiling=True)
compiler = engine.make_compiler(make_model(), "int8")
compiler.write(Path(sys.argv[1]), calibration=[inputs_of([5, 3])], kept=())
print(json.dumps([before, OptInChecker().check(False, True).name, len(sent)]))
"""


def test_a_model_is_converted_and_quantized_and_nobody_is_told(tmp_path):
    pytest.importorskip("openvino_telemetry")
    pytest.importorskip("nncf")
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    builds = ("CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI")
    environment = {k: v for k, v in os.environ.items() if k not in builds}
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    named = {"HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out)],
        env=environment | named,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, sent = json.loads(done.stdout.splitlines()[-1])
    assert before == "NO_FILE", "here they would report"
    assert (after, sent) == ("DECLINED", 0)
    assert not [path for path in home.rglob("*") if "intel" in path.as_posix().lower()]
