"""stub"""
import torch
from torch.utils._python_dispatch import TorchDispatchMode
class ErrorBounds(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))
    def clear(self): pass
def undecided_windows(kink, bounds):
    return torch.zeros_like(kink.tied)
