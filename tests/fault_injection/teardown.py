"""What takes a federation of processes down again."""

from contextlib import AbstractContextManager, ExitStack
from threading import RLock
from typing import Any, TypeVar

T = TypeVar("T")


class FaultError(RuntimeError):
    """What should have happened has not."""


class Teardown(ExitStack):
    """Takes down what is up, once and for all, also while another thread is setting more up."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = RLock()
        self._over = False

    def enter_context(self, cm: AbstractContextManager[T, Any]) -> T:
        """Enter a context that is left in the end.

        Raises
        ------
        FaultError
            If the end is over.
        """
        with self._lock:
            if self._over:
                raise FaultError("the command was stopped")
            return super().enter_context(cm)

    def __exit__(self, *error: Any) -> Any:
        with self._lock:
            self._over = True
            return super().__exit__(*error)
