"""
Which requests are metered, and for how much.

The rule: a template covers at least what the frameworks' own routers cover for the same text, so that no request
reaches a listed endpoint without its reservation. What a request's path may be to them stands in paths.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Unpack

from countwerk_meter.asgi.paths import merged
from countwerk_meter.asgi.request import MAX_BODY
from countwerk_meter.asgi.tariff import Tariff, TariffTerms
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARAMETER: Final = re.compile(r"\{([A-Za-z_]\w*)(?::(\w+))?\}")
_SEGMENT: Final = frozenset({"", "str", "int", "float", "uuid"})


class Route(Tariff):
    """
    One metered endpoint.

    Args:
        methods: `"POST"` or `["GET", "POST"]`; `"*"` is every method, for endpoints that take any: Django's views,
            Starlette's classes and mounted apps. GET is HEAD too, which frameworks answer with the same endpoint.
        path: A template as routers write it: `/chat/{id}` takes one segment that is not empty, `{rest:path}` the
            remainder. It is compared with the path as the client sent it and with the path inside the app (without
            `root_path`, be it the server's, FastAPI's own or Django's script name), so that it holds in front of
            mounted apps and inside them. Slashes that are doubled or stand at the end make no difference.
        operation: What the credits are for.
        max_body: Bytes of a body that are read before the app for a callable that asks for it; beyond them it is a 413.
        tariff: All that stands in `Tariff`: exactly one of `amount`, `price` and `estimate`, and the terms.

    Raises:
        ConfigurationError: No method, a malformed path, or a `max_body` below 0; and what `Tariff` raises.
        InvalidRequestError: An operation, amount, price or validity that no ledger would take.

    """

    def __init__(
        self,
        methods: str | Iterable[str],
        path: str,
        operation: str,
        *,
        max_body: int = MAX_BODY,
        **tariff: Unpack[TariffTerms],
    ) -> None:
        super().__init__(operation, **tariff)
        self.methods = frozenset(name.upper() for name in ([methods] if isinstance(methods, str) else methods))
        if not self.methods or not all(name.isalpha() or name == "*" for name in self.methods):
            raise ConfigurationError(f"a route needs HTTP methods, not {methods!r}")
        self._takes = self.methods | ({"HEAD"} if "GET" in self.methods else set[str]())
        self.path = path
        self._pattern, self._names = _pattern(path)
        if max_body < 0:
            raise ConfigurationError(f"{path}: max_body is a number of bytes, not {max_body}")
        self.max_body = max_body

    def __repr__(self) -> str:
        return f"<Route {','.join(sorted(self.methods))} {self.path} {self.operation}>"

    def takes(self, method: str) -> bool:
        """Whether requests of a method are metered."""
        return method in self._takes or "*" in self._takes

    def covers(self, path: str) -> bool:
        """Whether the template fits a path."""
        return self._pattern.fullmatch(path) is not None

    def parameters(self, paths: Iterable[str]) -> dict[str, str]:
        """Return what stands for each `{parameter}` in the first of a request's paths that the template fits."""
        found = next(filter(None, map(self._pattern.fullmatch, paths)), None)
        return {} if found is None else dict(zip(self._names, found.groups(), strict=True))


def find(routes: Iterable[Route], paths: tuple[str, ...], method: str | None) -> Route | None:
    """Return the first route of this method (None: of any) that covers one of a request's paths."""
    for route in routes:
        if method is None or route.takes(method):
            for path in paths:
                if route.covers(path):
                    return route
    return None


def _pattern(path: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    if not path.startswith("/"):
        raise ConfigurationError(f"a route's path begins with /, unlike {path!r}")
    path = merged(path)
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
    return re.compile(pattern + re.escape(path[end:]), re.DOTALL), tuple(names)
