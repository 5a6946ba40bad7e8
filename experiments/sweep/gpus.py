"""Which GPUs, or parts of one, trials can be given, as CUDA_VISIBLE_DEVICES names them; of a Mac, mps."""

import re
import subprocess

GPU = re.compile(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)")
MPS = "mps"  # the GPU of a Mac, for which there is one name: torch's
MIG = re.compile(r"MIG .*\(UUID: (MIG-[^)]+)\)")  # with old drivers MIG-GPU-<its GPU>/<instance>/<instance>


def names(count: int, visible: str | None, listing: str) -> list[str]:
    """Return a name for each GPU that a trial can be given; of one in MIG mode, for each of its instances.

    ``count`` is the number of GPUs that torch sees, ``visible`` the value of CUDA_VISIBLE_DEVICES, None where
    it is not set, ``listing`` what `nvidia-smi -L` says. CUDA shows a process one instance alone, and then no
    other GPU (NVIDIA's MIG User Guide, "CUDA Device Enumeration"), so torch counts one.
    """
    if not count:
        return []
    given = [name.strip() for name in visible.split(",")] if visible is not None else None
    machine = _gpus(listing)
    if given and given[0].startswith("MIG-"):
        there = [instance for instances in machine.values() for instance in instances]
        given = [name for name in given if name.startswith("MIG-")]
        return [name for name in given if not there or any(each.startswith(name) for each in there)]
    if not any(machine.values()):
        return given[:count] if given else [str(number) for number in range(count)]
    chosen = machine if given is None else [uuid for name in given if (uuid := _named(name, machine))]
    return [name for uuid in chosen for name in machine[uuid] or [uuid]]


def _gpus(listing: str) -> dict[str, list[str]]:
    """Return the UUIDs of the GPUs, and for each those of its MIG instances."""
    found: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if gpu := GPU.match(line.strip()):
            found[gpu[1]] = []
        elif (instance := MIG.match(line.strip())) and found:
            found[next(reversed(found))].append(instance[1])
    return found


def _named(name: str, machine: dict[str, list[str]]) -> str | None:
    """Return the UUID of a GPU that is named by its number or by the beginning of its UUID."""
    uuids = list(machine)
    if name.isdigit():
        return uuids[int(name)] if int(name) < len(uuids) else None
    return next((uuid for uuid in uuids if name.startswith("GPU-") and uuid.startswith(name)), None)


def listed() -> str:
    """Return what `nvidia-smi -L` says; empty where there is none, or no answer in 10 seconds."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


def meant(device: str, gpus: list[str]) -> list[str]:
    """Return those of ``gpus`` that `trainer.device` allows: all for auto, cuda, mps, one for cuda:<number>.

    None for one that is not here: before the first trial the check of the points has told of it, and a sweep
    that is over wants none.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", MPS if gpus == [MPS] else "cuda"):
        return []
    return gpus[int(number) :][:1] if number else gpus
