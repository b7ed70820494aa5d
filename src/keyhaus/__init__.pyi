# The names that `__init__.py` exports lazily, for type checkers. `open` is what `__getattr__` gives: under its own name
# it would hide the built-in one.
from collections.abc import Callable

from keyhaus.embedded.database import Database as Database
from keyhaus.embedded.transactions import Transaction as Transaction
from keyhaus.embedded.transactions import transactional as transactional

__version__: str

def __getattr__(name: str) -> Callable[..., Database]: ...
