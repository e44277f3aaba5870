"""
Under which paths a request may reach an endpoint.

The rule: too much is better than a free ride. Routers differ in what they make of a path: Starlette's patterns end in
`$`, so that `/chat%0A` is `/chat`; Litestar merges slashes, drops the last one and takes the root out wherever it
stands; Quart adds a first slash and reads a whole URL; Django takes a script name off without a look at what follows.
A listed route is looked for under all that a request's path may be to any of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from countwerk_meter.asgi.protocol import Scope


def paths_of(scope: Scope, own_roots: tuple[str, ...] = ()) -> tuple[str, ...]:
    """
    Return what a request's path may be to its app, the path as it came first.

    Args:
        scope: The request's.
        own_roots: What the app takes for its root beside the server's `root_path` (`roots_of`).

    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root and not own_roots and path[:1] == "/" and path[-1] not in "/\n" and "//" not in path:
        return (path,)
    # A mounted app is told the whole root, and that of the outermost one beside it.
    roots = dict.fromkeys((root, scope.get("app_root_path") or "", *own_roots))
    found = [path] if path[:1] == "/" else [path, *_of_url(path)]
    found += [other for one in found for root in roots if root for other in _rooted(one, root)]
    return tuple(dict.fromkeys(spelling for one in found for spelling in _spellings(one)))


def merged(path: str) -> str:
    """Return a path with one slash before each of its segments, and none at its end."""
    return "/" + "/".join(filter(None, path.split("/")))


def roots_of(app: object) -> tuple[str, ...]:
    """Return the roots that an app, or one that it wraps, sets for itself, whatever its server says."""
    roots, apps, known = list[str](), [app], set[int]()
    while apps:
        one: Any = apps.pop()
        if one is None or id(one) in known:
            continue
        known.add(id(one))
        root = getattr(one, "root_path", None)
        if isinstance(root, str):
            roots.append(root)
        apps.append(getattr(one, "app", None))
        # What is mounted at / is asked for the same paths.
        mounts = getattr(one, "routes", None)
        apps += [getattr(mount, "app", None) for mount in mounts or () if getattr(mount, "path", None) == ""]
    django = sys.modules.get("django.conf")
    if django is not None and django.settings.configured:
        roots.append(django.settings.FORCE_SCRIPT_NAME or "")
    return tuple(filter(None, dict.fromkeys(roots)))


def _of_url(target: str) -> Iterator[str]:
    try:
        yield urlparse(target).path
    except ValueError:
        return


def _rooted(path: str, root: str) -> Iterator[str]:
    """Yield a path without a root that stands in it, and with one that does not stand before it."""
    bare = root.rstrip("/")
    for one in dict.fromkeys((root, bare)):
        if one and one in path:
            yield path.partition(one)[2]
    if not path.startswith(bare):
        yield bare + path


def _spellings(path: str) -> Iterator[str]:
    for one in (path, path[:-1]) if path.endswith("\n") else (path,):
        yield one
        yield merged(one)
        if one.endswith("/"):
            # A remainder may be empty.
            yield merged(one) + "/"
