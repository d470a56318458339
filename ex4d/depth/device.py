# pyright: reportMissingImports=false
"""Where estimators compute, and in which precision."""

import torch


def chosen_device() -> tuple[torch.device, torch.dtype]:
    """The card in float16 where there is one, else the processor in float32.

    bfloat16 is no choice: in the estimators it costs ten times the error of float16.
    """
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.float16
    return torch.device("cpu"), torch.float32
