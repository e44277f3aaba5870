"""
Which requests are metered, and for how much.

The rule: a template covers at least what the frameworks' own routers cover for the same text, so that no request
reaches a listed endpoint without its reservation. (Their patterns end in `$`, so `/chat%0A` is `/chat` to them.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from countwerk_meter._metering.amounts import hold_of
from countwerk_meter._metering.options import check_unavailable
from countwerk_meter._wire.requests import checked_amount, checked_operation, checked_validity
from countwerk_meter.asgi.protocol import given
from countwerk_meter.asgi.request import MAX_BODY, Request
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from countwerk_meter._metering.estimates import Expected
    from countwerk_meter.asgi.protocol import Asked, Scope
    from countwerk_meter.events import Step
    from countwerk_meter.meter import Meter, Reservation

T = TypeVar("T")

# A value that may depend on the request: a callable of it, sync or async.
Priced: TypeAlias = "Callable[[Request], T | Awaitable[T]]"

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
        amount: As in `Meter.reserve`; like all that may be callable here a value, or a callable of the `Request` (the
            scope, `path_params`, `await request.json()`), sync or async.
        price: As in `Meter.reserve`.
        estimate: As in `Meter.reserve`. A callable may also answer with a number of credits to hold.
        max_output_tokens: As in `Meter.reserve`: the output cap that the request asks for, or None.
        clamp: As in `Meter.reserve`; the app finds the result in `current_reservation().max_tokens`.
        top_up: As in `Meter.reserve`.
        description: As in `Meter.reserve`.
        validity: Minutes. A response that streams for longer needs more than the default of 15.
        model: The attribute `model` that an estimate is priced with.
        max_body: Bytes of a body that are read before the app for such a callable; beyond them it is a 413.
        trusted_callers: Overrides the middleware's own.
        on_unavailable: Overrides the meter's own: `deny`, or `defer`, which needs a `debt_limit` above 0.
        answer_headers: Overrides the middleware's own.

    Raises:
        ConfigurationError: No method, a malformed path, not exactly one of the three sizes, or a `max_body` below 0.
        InvalidRequestError: An operation, amount, price or validity that no ledger would take.

    """

    def __init__(
        self,
        methods: str | Iterable[str],
        path: str,
        operation: str,
        *,
        amount: int | Priced[int] | None = None,
        price: int | Priced[int] | None = None,
        estimate: Usage | Priced[Expected | int] | None = None,
        max_output_tokens: int | Priced[int | None] | None = None,
        clamp: bool = False,
        top_up: bool = False,
        description: str | None = None,
        validity: int | None = None,
        model: str | Priced[str | None] | None = None,
        max_body: int = MAX_BODY,
        trusted_callers: bool | Asked[bool] | None = None,
        on_unavailable: Literal["deny", "defer"] | None = None,
        answer_headers: bool | None = None,
    ) -> None:
        self.methods = frozenset(name.upper() for name in ([methods] if isinstance(methods, str) else methods))
        if not self.methods or not all(name.isalpha() for name in self.methods):
            raise ConfigurationError(f"a route needs HTTP methods, not {methods!r}")
        self.path = path
        self._pattern, self._names = _pattern(path)
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
        self._max_output_tokens = max_output_tokens
        self._clamp = clamp
        if max_body < 0:
            raise ConfigurationError(f"{path}: max_body is a number of bytes, not {max_body}")
        self.max_body = max_body
        self.trusted_callers = trusted_callers
        self.answer_headers = answer_headers
        self._on_unavailable: Literal["deny", "defer"] | None = on_unavailable

    def __repr__(self) -> str:
        return f"<Route {','.join(sorted(self.methods))} {self.path} {self.operation}>"

    def check(self, meter: Meter) -> None:
        """Raise now what a fixed estimate would raise with the first request."""
        estimate = self._sizes.get("estimate")
        if estimate is not None and not callable(estimate) and not callable(self._model):
            hold_of(None, None, estimate, meter.prices, {"model": self._model} if self._model else {})
        if self._clamp and estimate is None:
            raise ConfigurationError(f"{self.path}: clamp makes an estimate's output smaller, and there is no estimate")
        if self._on_unavailable is not None:
            check_unavailable(self._on_unavailable, meter._engine.terms.debt_limit)

    def covers(self, path: str) -> bool:
        """Whether the template fits a path."""
        return self._pattern.match(path) is not None

    def parameters(self, scope: Scope) -> dict[str, str]:
        """Return what stands in the request's path for each `{parameter}`."""
        found = next(filter(None, map(self._pattern.match, _paths(scope))), None)
        return {} if found is None else dict(zip(self._names, found.groups(), strict=True))

    async def reservation(self, meter: Meter, account_id: str, request: Request, step: Step | None) -> Reservation:
        """
        Return one request's reservation, not begun yet.

        Raises:
            RequestRefusedError: The request cannot be priced.
            ClientLeftError: The client left while its body was read.

        """
        ((name, size),) = self._sizes.items()
        asked: Any = await given(size, request)
        model: Any = await given(self._model, request)
        cap: Any = await given(self._max_output_tokens, request)
        clamp = self._clamp
        if name == "estimate" and (isinstance(asked, int) or not isinstance(asked, Usage | str | Sequence)):
            # A number is what to hold, and leaves nothing to make smaller.
            name, asked, clamp = "amount", checked_amount(asked, "estimate"), False
        sizes: dict[str, Any] = {name: asked}
        return meter.reserve(
            account_id,
            self.operation,
            **sizes,
            top_up=self._top_up,
            description=self._description,
            validity=self._validity,
            model=model,
            max_output_tokens=cap,
            clamp=clamp,
            on_unavailable=self._on_unavailable,
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


def _pattern(path: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    if not path.startswith("/"):
        raise ConfigurationError(f"a route's path begins with /, unlike {path!r}")
    pattern, end, remainders, names = "", 0, 0, list[str]()
    for parameter in _PARAMETER.finditer(path):
        kind = parameter[2] or ""
        if kind != "path" and kind not in _SEGMENT:
            raise ConfigurationError(f"{path}: a parameter is {{name}} or {{name:path}}, not {parameter[0]}")
        remainders += kind == "path"
        pattern += re.escape(path[end : parameter.start()]) + ("(.*)" if kind == "path" else "([^/]+)")
        names.append(parameter[1])
        end = parameter.end()
    if remainders > 1 or set(_PARAMETER.sub("", path)) & set("{}"):
        raise ConfigurationError(f"{path}: parameters are {{name}}, and at most one {{name:path}}")
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{path}: a parameter's name stands there twice")
    return re.compile(pattern + re.escape(path[end:]) + "$", re.DOTALL), tuple(names)
