"""A card that is none: tensors that say they lie on another device, compute on the CPU, and refuse to be mixed.

PyTorch lets a back end be written in Python. This one holds the values in ordinary tensors, so a program runs to its
end with its right figures; but an operation on tensors of both devices is an error, as on a real card, and so is
NumPy on a tensor that was not brought back. Registered once for a process, and for good: use one of its own.
"""

import types
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "card"
aten = torch.ops.aten
_kernels = torch.library.Library("aten", "IMPL")
# Operations whose tensors may lie apart on a real card, too: copies, and indices that are brought over by themselves.
MAY_LIE_APART = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default}
MAY_LIE_APART |= {aten.index_put.default, aten._index_put_impl_.default}


PLAIN = (torch.Tensor, torch.nn.Parameter)


class OnCard(torch.Tensor):
    """A tensor on the simulated card; `values` are what it holds."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        """Wrap a tensor of the CPU."""
        lies = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        what = {"dtype": values.dtype, "device": torch.device(NAME, 0)}
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, **lies, **what)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        """Compute on the CPU what all lies on the card; refuse what lies apart."""
        return computed(operation, arguments, keywords or {})

    def tolist(self) -> list:
        """Return the values as numbers, as a tensor on a card does too."""
        return self.values.tolist()

    def __repr__(self, *, tensor_contents=None):
        return f"OnCard({self.values!r})"


def computed(operation: Any, arguments: tuple, keywords: dict) -> Any:
    """Return what an operation gives, on the device on which it would be."""
    tensors = [one for one in tree_flatten((arguments, keywords))[0] if isinstance(one, torch.Tensor)]
    here = [one for one in tensors if isinstance(one, OnCard)]
    # A number may come from the CPU: a tensor of no dimension.
    apart = [one for one in tensors if not isinstance(one, OnCard) and one.ndim]
    if here and apart and operation not in MAY_LIE_APART:
        shapes = [tuple(one.shape) for one in apart]
        raise RuntimeError(f"{operation}: tensors on {NAME} and on cpu {shapes} in one operation")
    asked = keywords.get("device")
    to_card = torch.device(asked).type == NAME if asked is not None else bool(here)
    if asked is not None and to_card:
        keywords = keywords | {"device": torch.device("cpu")}
    given = tree_map(lambda one: one.values if isinstance(one, OnCard) else one, (arguments, keywords))
    result = operation(*given[0], **given[1])
    if not to_card or operation is aten._local_scalar_dense.default:
        return result
    # What was written into, or given as it is, is what comes back.
    known = {id(one.values): one for one in here}
    return tree_map(lambda one: _first(known.get(id(one)), one) if type(one) in PLAIN else one, result)


def _first(known: OnCard | None, values: torch.Tensor) -> OnCard:
    return OnCard(values) if known is None else known


class Card(TorchDispatchMode):
    """While it is entered, tensors can be made on the card and brought there."""

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        """Send to the card what names it."""
        return computed(operation, arguments, keywords or {})


class _Module(types.SimpleNamespace):
    """What PyTorch asks of a device's module."""

    def __init__(self):
        alone = {"current_device": lambda: 0, "device_count": lambda: 1, "manual_seed_all": lambda seed: None}
        states = {
            "get_rng_state": lambda device=0: torch.get_rng_state(),
            "set_rng_state": lambda state, device=0: None,
        }
        types_known = {"get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16]}
        yes = {"is_initialized": lambda: True, "is_available": lambda: True, "_is_in_bad_fork": lambda: False}
        super().__init__(**alone, **states, **types_known, **yes)


def register() -> None:
    """Make the card known to this process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # Where PyTorch switches subclasses and modes off, as in torch.tensor, it asks the back end itself.
    for name in ("empty_strided", "empty.memory_format", "copy_"):
        _kernels.impl(name, _kernel(name), "PrivateUse1")


def _kernel(name: str):
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(aten, packet), overload or "default")
    return lambda *arguments, **keywords: computed(operation, arguments, keywords)
