"""One process that times the PyTorch original, where a user has it; it imports nothing of ours.

The interpreter needs torch and `distributed_shampoo` (facebookresearch/optimizers). The argument
is JSON: shapes, optimizer ("adamw", "original" or "original, unpacked"), block_size, frequency and
cycles. One thread; the clock is that of the process.
"""

import json
import sys
import time

import torch  # pyright: ignore[reportMissingImports]  # of another environment

WARMUP = 2  # refresh cycles before the clock starts, as in step_worker.py


def make(parameters: list, order: dict) -> torch.optim.Optimizer:
    """Build the optimizer, options as those of "equal" in step_worker.py."""
    if order["optimizer"] == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    from distributed_shampoo import (  # pyright: ignore[reportMissingImports]  # as torch
        distributed_shampoo,
        shampoo_types,
    )

    packed = order["optimizer"] == "original"
    kind = shampoo_types.RootInvShampooPreconditionerConfig
    return distributed_shampoo.DistributedShampoo(
        parameters,
        lr=1e-3,
        betas=(0.9, 0.95),
        epsilon=1e-6,
        max_preconditioner_dim=order["block_size"],
        precondition_frequency=order["frequency"],
        start_preconditioning_step=order["frequency"],
        preconditioner_config=kind() if packed else kind(use_symmetric_packing=False),
        grafting_config=shampoo_types.AdamPreconditionerConfig(beta2=0.95, epsilon=1e-8),
    )


def milliseconds(order: dict) -> list[float]:
    """Time the steps of whole refresh cycles."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in order["shapes"]]
    optimizer = make(parameters, order)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    times = []
    for _ in range((WARMUP + order["cycles"]) * order["frequency"]):
        start = time.process_time()
        optimizer.step()
        times.append(1e3 * (time.process_time() - start))
    return times[WARMUP * order["frequency"] :]


if __name__ == "__main__":
    print(json.dumps({"milliseconds": milliseconds(json.loads(sys.argv[1]))}))
