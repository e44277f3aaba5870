"""
The fault plan: which request goes wrong, and how.

The rule: faults are matched in the order given, and the first live one that matches a request is the one that
happens. A plain fault happens `times` times (1), after `skip` matching requests were left alone; one with a
`probability` stays for ever unless `times` bounds it. Faults strike before the API key is looked at, as a broken
network would. Seconds are real seconds: a socket does not wait on the sandbox's clock.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal, cast, get_args

from countwerk_meter.sandbox import contract
from countwerk_meter.sandbox.contract import JsonObject
from countwerk_meter.sandbox.settings import SettingError, header_text, number, only, retry_after_text, whole

FaultKind = Literal[
    "status",
    "drop_before",
    "drop_after",
    "delay",
    "delay_after",
    "garbage",
    "html",
    "duplicate",
    "drip",
    "oversize",
]
KINDS: Final = frozenset(get_args(FaultKind))

_FIELDS: Final = frozenset(
    {
        "path",
        "kind",
        "account_id",
        "skip",
        "times",
        "probability",
        "status",
        "code",
        "message",
        "retry_after",
        "location",
        "envelope",
        "seconds",
        "headers",
        "bytes",
    }
)

_OWN_ERROR: Final = {
    contract.BALANCE: "BALANCE_ERROR",
    contract.DEDUCT: "DEDUCTION_ERROR",
    contract.RESERVE: "RESERVATION_ERROR",
    contract.CONFIRM: "CONFIRMATION_ERROR",
    contract.CANCEL: "CANCELLATION_ERROR",
}


@dataclass(slots=True)
class Fault:
    """One line of the plan. `skip` and `times` count down as requests match; `times` None stays for ever."""

    path: str
    kind: FaultKind
    account_id: str | None
    skip: int
    times: int | None
    probability: float | None
    status: int
    code: str | None
    message: str
    retry_after: str | None
    location: str | None
    envelope: bool
    seconds: float
    headers: bool
    size: int

    def matches(self, path: str, account_id: str | None) -> bool:
        return self.path in ("*", path) and self.account_id in (None, account_id)

    def as_json(self) -> JsonObject:
        return {
            "path": self.path,
            "kind": self.kind,
            "account_id": self.account_id,
            "skip": self.skip,
            "times": self.times,
            "probability": self.probability,
        }


class FaultPlan:
    """The faults still to come. Empty costs a request nothing."""

    __slots__ = ("faults",)

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def replace(self, plan: object) -> None:
        if not isinstance(plan, list):
            raise SettingError("faults are a list")
        self.faults = [read_fault(entry) for entry in cast("list[object]", plan)]

    def take(self, path: str, account_id: str | None, random: Random) -> Fault | None:
        """Return the fault that strikes this request, and count it."""
        for fault in self.faults:
            if not fault.matches(path, account_id):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.probability is not None and random.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
            return fault
        return None


def read_fault(entry: object) -> Fault:
    """Read one fault as the control API takes it."""
    if not isinstance(entry, dict):
        raise SettingError("a fault is an object")
    given = cast("JsonObject", entry)
    only(given, _FIELDS, "a fault")
    path, kind = given.get("path", "*"), given.get("kind")
    if path != "*" and path not in contract.PATHS:
        raise SettingError(f"path must be * or one of {', '.join(sorted(contract.PATHS))}")
    if kind not in KINDS:
        raise SettingError(f"kind must be one of {', '.join(sorted(KINDS))}")
    if kind == "status" and "status" not in given:
        raise SettingError("a fault of kind status needs a status")
    probability = given.get("probability")
    times = given.get("times", None if probability is not None else 1)
    status = whole(given.get("status", 200), "status", least=200)
    if status > 599:
        raise SettingError("status must be from 200 to 599")
    if probability is not None and number(probability, "probability") > 1:
        raise SettingError("probability must be from 0 to 1")
    return Fault(
        path=cast("str", path),
        kind=cast("FaultKind", kind),
        account_id=_optional_text(given, "account_id"),
        skip=whole(given.get("skip", 0), "skip"),
        times=None if times is None else whole(times, "times", least=1),
        probability=cast("float | None", probability),
        status=status,
        code=_optional_text(given, "code"),
        message=_optional_text(given, "message") or "a fault that the sandbox was told to make",
        retry_after=retry_after_text(given.get("retry_after")),
        location=header_text(_optional_text(given, "location"), "location"),
        envelope=_flag(given, "envelope", default=True),
        seconds=number(given.get("seconds", 1.0), "seconds"),
        headers=_flag(given, "headers", default=False),
        size=whole(given.get("bytes", 10_000_000), "bytes", least=1),
    )


def usual_code(path: str, status: int) -> str:
    """Return the code that the contract pairs with a status on this path, for a fault that names none."""
    match status:
        case 401:
            return "INVALID_API_KEY"
        case 402:
            return "INSUFFICIENT_CREDITS"
        case 403:
            return "FORBIDDEN"
        case 404:
            return "ORDER_NOT_FOUND" if path == contract.RESOLVE_ORDER else "RESERVATION_NOT_FOUND"
        case 409:
            return "ORDER_NOT_MAPPED_YET" if path == contract.RESOLVE_ORDER else "DS24_KEY_REQUIRED"
        case 429:
            return "RATE_LIMIT_EXCEEDED"
        case 503 if path == contract.PURCHASE_LINKS:
            return "DS24_TEMPORARY_ERROR"
        case _ if status < 500:
            return "INVALID_INPUT"
        case _:
            return _OWN_ERROR.get(path, "INTERNAL_ERROR")


def _optional_text(given: JsonObject, name: str) -> str | None:
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value
    raise SettingError(f"{name} must be a string")


def _flag(given: JsonObject, name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if isinstance(value, bool):
        return value
    raise SettingError(f"{name} must be true or false")
