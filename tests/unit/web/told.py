"""What is said of invented runs: a verdict and two alarms."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def verdict(labels: list[str]) -> dict[str, Any]:
    return {
        "level": "alarm",
        "headline": "One layer lost most of its rank, and the loss stopped falling.",
        "sentences": [
            f"The rank of what leaves {labels[-1]} fell from 61 to 7 between steps 2,000 and 2,600.",
            "All other layers keep at least 40 % of their rank.",
        ],
    }


def alarms(labels: list[str], steps: NDArray[np.int32]) -> list[dict[str, Any]]:
    made = {
        "step": int(steps[len(steps) // 2]),
        "layer": labels[-1],
        "alarm": "collapse",
        "severity": "alarm",
        "message": f"The effective rank of what leaves {labels[-1]} fell to a tenth, and the loss stalled.",
        "since": int(steps[len(steps) // 3]),
        "evidence": {"output_effective_rank": 6.9, "baseline": 61.2},
        "source": "live",
    }
    told = {**made, "layer": labels[0], "alarm": "compression", "severity": "info"}
    told["message"] = (
        "The stable rank of the weight fell to a third while the loss fell too."
    )
    return [made, {**told, "source": "read afterwards"}]
