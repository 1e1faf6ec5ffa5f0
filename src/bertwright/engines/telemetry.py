"""No reports: OpenVINO's converter and NNCF tell their makers of each use unless told not to.

As soon as they are imported they write an identifier of the user to the home folder, and they send
events (versions, frameworks, operators) to an analytics service, unless a file there forbids it.
"""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["decline_telemetry"]


def decline_telemetry() -> None:
    """Let this process answer, whoever asks, that consent is declined: nothing is sent."""
    with contextlib.suppress(ImportError):
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

        def declined(self: Any, *args: Any, **options: Any) -> Any:
            return ConsentCheckResult.DECLINED

        OptInChecker.check = declined
