"""
Which requests are metered, and for how much.

The rule: a template covers at least what the frameworks' own routers cover for the same text, so that no request
reaches a listed endpoint without its reservation. (Their patterns end in `$`, so `/chat%0A` is `/chat` to them.)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter._metering.amounts import hold_of
from countwerk_meter._wire.requests import checked_amount, checked_operation, checked_validity
from countwerk_meter.asgi.protocol import given
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from countwerk_meter.asgi.protocol import Asked, Scope
    from countwerk_meter.events import Step
    from countwerk_meter.meter import Meter, Reservation

_PARAMETER: Final = re.compile(r"\{([A-Za-z_]\w*)(?::(\w+))?\}")
_SEGMENT: Final = frozenset({"", "str", "int", "float", "uuid"})


class Route:
    """
    One metered endpoint.

    Args:
        methods: `"POST"` or `["GET", "POST"]`. HEAD and OPTIONS count only if they are listed; Starlette (not FastAPI)
            answers HEAD with a GET endpoint, so list it there.
        path: A template as routers write it: `/chat/{id}` takes one segment that is not empty, `{rest:path}` the
            remainder. It is compared with the path as the client sent it and with the path inside the app (without
            `root_path`), so that it holds in front of mounted apps and inside them.
        operation: What the credits are for.
        amount: As in `Meter.reserve`; like the two below a value, or a callable of the scope, sync or async.
        price: As in `Meter.reserve`.
        estimate: As in `Meter.reserve`. A callable may also answer with a number of credits to hold.
        top_up: As in `Meter.reserve`.
        description: As in `Meter.reserve`.
        validity: Minutes. A response that streams for longer needs more than the default of 15.
        model: The attribute `model` that an estimate is priced with.

    Raises:
        ConfigurationError: No method, a malformed path, or not exactly one of the three sizes.
        InvalidRequestError: An operation, amount, price or validity that no ledger would take.

    """

    def __init__(
        self,
        methods: str | Iterable[str],
        path: str,
        operation: str,
        *,
        amount: int | Asked[int] | None = None,
        price: int | Asked[int] | None = None,
        estimate: Usage | Asked[Usage | int] | None = None,
        top_up: bool = False,
        description: str | None = None,
        validity: int | None = None,
        model: str | None = None,
    ) -> None:
        self.methods = frozenset(name.upper() for name in ([methods] if isinstance(methods, str) else methods))
        if not self.methods or not all(name.isalpha() for name in self.methods):
            raise ConfigurationError(f"a route needs HTTP methods, not {methods!r}")
        self.path = path
        self._pattern = _pattern(path)
        self.operation = checked_operation(operation)
        sizes = {"amount": amount, "price": price, "estimate": estimate}
        self._sizes: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
        if len(self._sizes) != 1:
            raise ConfigurationError(f"{path}: pass exactly one of amount, price and estimate")
        for name in ("amount", "price"):
            if name in self._sizes and not callable(self._sizes[name]):
                checked_amount(self._sizes[name], name)
        self._top_up = top_up
        self._description = description
        self._validity = None if validity is None else checked_validity(validity)
        self._model = model

    def __repr__(self) -> str:
        return f"<Route {','.join(sorted(self.methods))} {self.path} {self.operation}>"

    def check(self, meter: Meter) -> None:
        """Raise now what a fixed estimate would raise with the first request."""
        estimate = self._sizes.get("estimate")
        if estimate is not None and not callable(estimate):
            hold_of(None, None, estimate, meter.prices, {"model": self._model} if self._model else {})

    def covers(self, path: str) -> bool:
        """Whether the template fits a path."""
        return self._pattern.match(path) is not None

    async def reservation(self, meter: Meter, account_id: str, scope: Scope, step: Step | None) -> Reservation:
        """Return one request's reservation, not begun yet."""
        ((name, size),) = self._sizes.items()
        asked: Any = await given(size, scope)
        if name == "estimate" and not isinstance(asked, Usage):
            name, asked = "amount", checked_amount(asked, "estimate")
        sizes: dict[str, Any] = {name: asked}
        return meter.reserve(
            account_id,
            self.operation,
            **sizes,
            top_up=self._top_up,
            description=self._description,
            validity=self._validity,
            model=self._model,
            step=step,
            # A request that is met again is refused: only a workflow's resumed step goes on for nothing.
            on_replay="refuse",
        )


def find(routes: Iterable[Route], scope: Scope, method: str | None) -> Route | None:
    """Return the first route of this method (None: of any) that covers the request's path."""
    paths = _paths(scope)
    for route in routes:
        if method is None or method in route.methods:
            for path in paths:
                if route.covers(path):
                    return route
    return None


def _paths(scope: Scope) -> tuple[str, ...]:
    """Return the path with and without `root_path`; servers differ in whether `path` includes it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if not root:
        return (path,)
    if path == root or path.startswith(root + "/"):
        return path, path[len(root) :]
    return root + path, path


def _pattern(path: str) -> re.Pattern[str]:
    if not path.startswith("/"):
        raise ConfigurationError(f"a route's path begins with /, unlike {path!r}")
    pattern, end, remainders = "", 0, 0
    for parameter in _PARAMETER.finditer(path):
        kind = parameter[2] or ""
        if kind != "path" and kind not in _SEGMENT:
            raise ConfigurationError(f"{path}: a parameter is {{name}} or {{name:path}}, not {parameter[0]}")
        remainders += kind == "path"
        pattern += re.escape(path[end : parameter.start()]) + (".*" if kind == "path" else "[^/]+")
        end = parameter.end()
    if remainders > 1 or set(_PARAMETER.sub("", path)) & set("{}"):
        raise ConfigurationError(f"{path}: parameters are {{name}}, and at most one {{name:path}}")
    return re.compile(pattern + re.escape(path[end:]) + "$", re.DOTALL)
