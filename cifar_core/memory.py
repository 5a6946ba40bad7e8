"""A lack of memory, whichever library tells of it and in whatever words."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

# What may help.
TRAINING = (
    "use a smaller trainer.batch_size with a larger trainer.accumulate, trainer.precision=bf16, "
    "or a smaller model"
)
EVALUATION = "use a smaller trainer.eval_batch_size"

# What torch and CUDA's libraries say in a RuntimeError. CUDNN_STATUS_INTERNAL_ERROR and
# CUBLAS_STATUS_NOT_INITIALIZED alone are not among it: a faulty card and a broken installation say them too.
SAID = re.compile(
    r"(CUDA|HIP|XPU|MPS)\b.*out of memory|_OUT_OF_MEMORY|_ALLOC_FAILED|_ALLOCATION_FAILED"
    r"|can(no|')t allocate memory|not enough memory: you tried to allocate|std::bad_alloc",
    re.IGNORECASE | re.DOTALL,
)


class LackOfMemory(MemoryError):
    """Memory was lacking; the message says what to change."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was lacking, of the machine or a GPU: for ``error`` or for one it follows from.

    So a ValueError that was made of torch's error counts, and one that only speaks of memory does not.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if _lacks(link):
            return True
        seen.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def _lacks(error: BaseException) -> bool:
    if isinstance(error, OSError):  # of a fork or a file that is mapped
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and SAID.search(str(error)) is not None
    )


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Make `LackOfMemory`, with what to change, of any lack of memory within; the innermost advice holds."""
    try:
        yield
    except LackOfMemory:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise LackOfMemory(f"out of memory: {advice} ({' '.join(str(error).split())[:200]})") from error
