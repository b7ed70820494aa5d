from collections.abc import Callable

from keyhaus.client.aio.client import AsyncClient as AsyncClient
from keyhaus.client.aio.transaction import AsyncTransaction as AsyncTransaction
from keyhaus.client.blocking.client import Client as Client
from keyhaus.client.blocking.transaction import Transaction as Transaction
from keyhaus.client.errors import ConnectionLost as ConnectionLost
from keyhaus.client.errors import OutcomeUnknown as OutcomeUnknown
from keyhaus.core.access.mapping import TypedMapping as TypedMapping
from keyhaus.core.access.replies import Change as Change
from keyhaus.core.access.replies import Operation as Operation
from keyhaus.core.access.replies import Position as Position
from keyhaus.core.errors import ChangesLost as ChangesLost
from keyhaus.core.errors import ChangesTooOld as ChangesTooOld
from keyhaus.core.errors import Closed as Closed
from keyhaus.core.errors import Conflict as Conflict
from keyhaus.core.errors import Deadlock as Deadlock
from keyhaus.core.errors import DiskFull as DiskFull
from keyhaus.core.errors import Error as Error
from keyhaus.core.errors import LimitExceeded as LimitExceeded
from keyhaus.core.errors import LockTimeout as LockTimeout
from keyhaus.core.errors import Poisoned as Poisoned
from keyhaus.core.errors import ReadOnly as ReadOnly
from keyhaus.core.errors import SnapshotTooOld as SnapshotTooOld
from keyhaus.core.errors import StorageError as StorageError
from keyhaus.core.errors import TransactionError as TransactionError
from keyhaus.core.errors import TransactionTimeout as TransactionTimeout
from keyhaus.core.errors import TransactionTooLarge as TransactionTooLarge
from keyhaus.core.errors import UnknownTransaction as UnknownTransaction
from keyhaus.core.errors import UserError as UserError
from keyhaus.core.errors import WrongType as WrongType
from keyhaus.core.transactional import TransactionEnded as TransactionEnded
from keyhaus.core.transactional import transactional as transactional
from keyhaus.embedded.database import Database as Database
from keyhaus.embedded.storage_engine import StorageEngine as StorageEngine

__version__: str

# `open` is what this gives: under its own name it would hide the built-in one.
def __getattr__(name: str) -> Callable[..., Database]: ...
