"""What `compile = True` does on CUDA. Without this file, GAN.py launches kernels one by one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from GAN import say


class Graph:
    """A step as a CUDA graph: its hundreds of kernels cost the CPU one launch.

    The inputs' shapes must not change; the result is overwritten by the next call, and by that of
    any graph of the same pool of memory. Where the generator has grown, a new graph is made.
    """

    def __init__(self, step: Callable[..., Tensor], gen: Module, pool: Any = None) -> None:
        self.step, self.gen, self.pool, self.calls, self.left = step, gen, pool, 0, 0
        self.graph: Any = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if (left := getattr(self.gen, "left", 0)) != self.left:
            self.left, self.calls = left, min(self.calls, 0)
        self.calls += 1
        if self.calls < 4:  # libraries choose their algorithms, optimisers make their state
            return self.step(*inputs)
        if self.calls == 4:
            self.inputs, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
            try:  # thread_local: other threads may do with the device what they like
                stream = torch.cuda.current_stream()
                with torch.cuda.graph(graph, self.pool, stream, "thread_local"):
                    self.result = self.step(*self.inputs)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                say(f"No CUDA graph can be made here, so training is slower ({reason}).")
                self.calls = -sys.maxsize
                self.graph = None
                del graph, self.inputs  # and the memory that they hold
                return self.step(*inputs)
            self.graph = graph  # the last one goes only now: without any, its pool is closed
        torch._foreach_copy_(self.inputs, inputs)
        self.graph.replay()
        return self.result


def captured(
    steps: dict[Any, Callable[..., Tensor]], gen: Module
) -> dict[Any, Callable[..., Tensor]]:
    """These steps of a generator, by whatever names, as graphs. They take turns, so they share
    their memory: together they need what the largest does.
    """
    warnings.filterwarnings("ignore", ".*capturable")  # the first steps run outside of a graph
    pool = torch.cuda.graph_pool_handle()
    return {name: Graph(step, gen, pool) for name, step in steps.items()}
