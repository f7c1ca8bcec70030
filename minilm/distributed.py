"""One program in many processes: who am I, who writes, and how gradients and weights are shared.

``torchrun --nproc-per-node 2 -m minilm train ...`` starts the same program twice. Each process takes its own rows of
the same batch; gradients are averaged (DDP), or weights, gradients and optimizer state are each held in pieces (FSDP),
for what does not fit. The engine is PyTorch's own: gloo on processors, NCCL on GPUs.

References: Li et al. 2020 (DDP); Rajbhandari et al. 2020 (ZeRO); Zhao et al. 2023 (FSDP).
"""

import atexit
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from .optim import clip_grad_norm

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than one evaluation of the slowest."""


@dataclass(frozen=True)
class World:
    """All processes of a run, and this one's place among them; without ``torchrun`` there is just one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes: its own GPU if there is one."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def here() -> World:
    """The world that ``torchrun`` describes in the environment.

    >>> here()
    World(rank=0, size=1, local_rank=0, local_size=1)
    """
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    return World(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})


def join() -> World:
    """`here`, with the processes connected from now on until the program ends."""
    world = here()
    if world.size > 1 and not dist.is_initialized():
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        dist.init_process_group("nccl" if world.device.type == "cuda" else "gloo", timeout=TIMEOUT)
        # not at the end of a training: a DDP that outlives its group would end it, and wait with Python's lock held
        # for gloo's thread, which may wait for the lock to let go of a tensor
        atexit.register(dist.destroy_process_group)
    return world


def wrap(model: nn.Module, world: World, shard: bool = False) -> nn.Module:
    """The model, so that ``backward`` averages gradients over all processes; ``shard`` cuts it into pieces, in place.

    A unit of sharding is a block (a child of a ``ModuleList``); what is left is one more unit.
    """
    if world.size == 1:
        return model
    if not shard:
        return DistributedDataParallel(model)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)  # or an evaluation would leave the last unit whole


def quiet(model: nn.Module, until_last: bool) -> AbstractContextManager:
    """A context in which ``backward`` adds up gradients here and does not yet average them with the other processes."""
    return model.no_sync() if until_last and isinstance(model, DistributedDataParallel) else nullcontext()


def clip(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """`minilm.optim.clip_grad_norm`, also where gradients are held in pieces."""
    parameters = list(parameters)
    if any(isinstance(p, DTensor) for p in parameters):
        torch.nn.utils.clip_grad_norm_(parameters, largest)
    else:
        clip_grad_norm(parameters, largest)


def wait() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def total(value: Tensor) -> Tensor:
    """The sum of a number over all processes."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the processor, of which this process may hold a piece. Every process must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """``tensor``, which is whole, placed as ``model`` is placed: on its device, and cut as it is cut."""
    if isinstance(model, DTensor) and tensor.shape == model.shape:
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor.to(model.device)
