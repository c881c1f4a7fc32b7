"""Runs a PyTorch script unchanged and reports, on rank 0, when its first optimizer step had ended.

usage: torchrun ... peer_first_step.py SCRIPT ARGUMENT...
Prints a line `{"first_step_at": seconds since the epoch}`.
"""

import json
import os
import runpy
import sys
import time

from torch.optim.optimizer import register_optimizer_step_post_hook


def report(*_):
    hook.remove()
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"first_step_at": time.time()}), flush=True)


hook = register_optimizer_step_post_hook(report)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
