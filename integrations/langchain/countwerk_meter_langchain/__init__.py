"""
Meter LangChain's model calls on a CountWerk ledger.

    from countwerk_meter_langchain import CountwerkCallbackHandler

    handler = CountwerkCallbackHandler(meter, account_id="acct_123")
    chain.invoke({"question": "..."}, config={"callbacks": [handler]})
"""

from __future__ import annotations

from countwerk_meter_langchain.handler import CountwerkCallbackHandler

__all__ = ["CountwerkCallbackHandler"]

__version__ = "0.1.0"
