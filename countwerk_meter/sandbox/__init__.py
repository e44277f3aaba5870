"""
The sandbox: a local, CountWerk-compatible ledger for development and tests.

It serves the seven endpoints of the contract over double-entry books in SQLite, and beside them a control API that
opens accounts, makes faults, moves the clock and shows the books. It shares no code with the meter, so that it can
audit it; and it is not the vendor's server: where the contract is silent it has to choose, as follows.

- An account that was never opened has 0 credits: `balance` answers zeros, `reserve` and `deduct` 402. (The contract
  has no code for an unknown account.)
- `amount` missing is `INVALID_AMOUNT`. A wrong type is `INVALID_INPUT` where the field has no code of its own.
- A request is judged in this order: API key, rate limit, form, permission, books.
- `actualAmount` above the reserved amount is `INVALID_AMOUNT`, or, with the setting `overage: allow`, taken from what
  is available. `actualAmount` 0 is `INVALID_AMOUNT`.
- A reservation that was confirmed, cancelled, has expired or never was: `RESERVATION_NOT_FOUND`, all alike.
- `newBalance` is the balance (available and reserved) after the deduction; the same usage event again repeats the
  first answer, old balance included.
- `nextExpiration` is when the account's next reservation expires, or null.
- `ds24: missing` is 409 `DS24_KEY_REQUIRED` with every option disabled; `ds24: invalid` is 409 `DS24_KEY_INVALID`
  without options: the contract allows both forms.
- Another method or an unknown path is answered 405 or 404 without an envelope.

These codes of the contract never come from the sandbox itself, and appear only where a fault of kind `status` names
them: `MISSING_REQUIRED_FIELDS`, `MISSING_SOURCE`, `INVALID_SOURCE`, `MISSING_TRANSACTION_ID` (of endpoints it does not
have), `DS24_BAD_REQUEST`, `DS24_KEY_FORBIDDEN`, `DS24_RATE_LIMITED`, `DS24_TEMPORARY_ERROR` (no Digistore24 is behind
it), and every 500 (`BALANCE_ERROR` and its like).
"""

import importlib

for _needed in ("starlette", "uvicorn"):
    try:
        importlib.import_module(_needed)
    except ImportError as _error:
        _text = "the sandbox needs its extra: pip install 'countwerk-meter[sandbox]'"
        raise ModuleNotFoundError(_text, name=_needed) from _error

from countwerk_meter.sandbox.app import DEFAULT_API_KEY, SandboxApp, create_app  # noqa: E402 - after the check
from countwerk_meter.sandbox.books import NotABooksFileError  # noqa: E402
from countwerk_meter.sandbox.remote import SandboxControl  # noqa: E402
from countwerk_meter.sandbox.server import SandboxServer, run  # noqa: E402

__all__ = [
    "DEFAULT_API_KEY",
    "NotABooksFileError",
    "SandboxApp",
    "SandboxControl",
    "SandboxServer",
    "create_app",
    "run",
]
