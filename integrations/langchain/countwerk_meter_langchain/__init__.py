"""
Meter LangChain's model calls on a CountWerk ledger.

    from countwerk_meter_langchain import CountwerkCallbackHandler

    handler = CountwerkCallbackHandler(meter, account_id="acct_123")
    chain.invoke({"question": "..."}, config={"callbacks": [handler]})

`CountwerkAgentMiddleware` is for `langchain.agents.create_agent`, and needs `langchain`; nothing else here does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from countwerk_meter_langchain.handler import CountwerkCallbackHandler
from countwerk_meter_langchain.installing import Installed, install

if TYPE_CHECKING:
    from countwerk_meter_langchain.middleware import CountwerkAgentMiddleware

__all__ = ["CountwerkAgentMiddleware", "CountwerkCallbackHandler", "Installed", "install"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "CountwerkAgentMiddleware":
        try:
            from countwerk_meter_langchain.middleware import CountwerkAgentMiddleware
        except ModuleNotFoundError as error:
            raise ImportError(f"{name} needs langchain: pip install 'countwerk-meter-langchain[agents]'") from error
        return CountwerkAgentMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
