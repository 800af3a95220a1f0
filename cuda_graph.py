"""What `compile = True` does on CUDA. Without this file, GAN.py launches kernels one by one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from GAN import say


class Graph:
    """A step as a CUDA graph: its hundreds of kernels cost the CPU one launch.

    The inputs' shapes must not change; the result is overwritten by the next call.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step, self.calls = step, 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls < 4:  # libraries choose their algorithms, optimisers make their state
            return self.step(*inputs)
        if self.calls == 4:
            self.inputs, self.graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
            try:  # thread_local: other threads may do with the device what they like
                stream = torch.cuda.current_stream()
                with torch.cuda.graph(self.graph, None, stream, "thread_local"):
                    self.result = self.step(*self.inputs)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                say(f"No CUDA graph can be made here, so training is slower ({reason}).")
                self.calls = -sys.maxsize
                return self.step(*inputs)
        torch._foreach_copy_(self.inputs, inputs)
        self.graph.replay()
        return self.result


def captured(steps: dict[Any, Callable[..., Tensor]]) -> dict[Any, Callable[..., Tensor]]:
    """These steps, by whatever names, as graphs."""
    warnings.filterwarnings("ignore", ".*capturable")  # the first steps run outside of a graph
    return {name: Graph(step) for name, step in steps.items()}
