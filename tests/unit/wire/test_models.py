"""The contract's objects: its names on the wire, tolerant of what is new, and no URL where none may be."""

import copy
import pickle

import pytest

from countwerk_meter._wire.models import (
    Balance,
    Cancellation,
    Confirmation,
    Deduction,
    LedgerReservation,
    PurchaseLinks,
    PurchaseOption,
    ResolvedOrder,
)

URL = "https://www.digistore24.com/buy/4711"
OPEN = {
    "type": "topup",
    "linkMode": "create_buy_url",
    "effectiveAtPolicy": "immediate",
    "expectedPolicy": "immediate",
    "enabled": True,
    "disabledReason": None,
    "toProductId": "4711",
    "url": URL,
    "label": "100 credits",
}
CLOSED = {"type": "manage", "enabled": False, "disabledReason": "Not now", "url": None}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (ResolvedOrder, "order_id account_id ai_product_id"),
        (PurchaseLinks, "ai_product_id account_id current_order_id current_tier_product_id options"),
        (
            PurchaseOption,
            (
                "type linkMode effectiveAtPolicy expectedPolicy enabled disabledReason toProductId fromProductId url "
                "label description"
            ),
        ),
        (Balance, "balance reservedBalance availableBalance totalEarned totalSpent nextExpiration"),
        (Deduction, "transactionId newBalance deductedAmount operation description"),
        (LedgerReservation, "reservationId operation amount expiresAt description"),
        (Confirmation, "reservationId confirmed actualAmount description"),
        (Cancellation, "reservationId cancelled reason"),
    ],
)
def test_names_on_the_wire(model, names):
    """Every model has exactly the contract's names on the wire."""
    assert names.split() == [field.alias or name for name, field in model.model_fields.items()]


def test_names_in_python():
    """In Python a model is made and read in snake_case, and cannot be changed."""
    balance = Balance(balance=1, available_balance=1, reserved_balance=0)

    assert 1 == balance.available_balance
    with pytest.raises(ValueError, match="frozen"):
        balance.balance = 2


def test_the_oldest_servers():
    """The oldest servers name no product."""
    assert ResolvedOrder.model_validate({"order_id": "O", "account_id": "a"}).ai_product_id is None


def test_options_are_kept_as_sent():
    """Options keep their order, their unknown values and fields, and go on as the ledger sent them."""
    new = {**OPEN, "type": "gift", "linkMode": "carrier_pigeon", "badge": "new"}
    links = PurchaseLinks.model_validate({"options": [OPEN, CLOSED, new]})

    assert ["topup", "manage", "gift"] == [option.type for option in links.options]
    assert (["topup", "gift"], ["manage"]) == ([o.type for o in links.enabled], [o.type for o in links.disabled])
    assert [OPEN, CLOSED, new] == links.wire_options()


def test_numeric_product_ids():
    """A product id that comes as a number is still a product id."""
    assert "4711" == PurchaseOption.model_validate({**OPEN, "toProductId": 4711}).to_product_id


@pytest.mark.parametrize("enabled", [False, None, 0, 1, "true", "false", "perhaps", []])
def test_what_is_not_enabled_has_no_url(enabled):
    """Only a plain `true` makes an option a way to buy; any other has no link, in no field."""
    option = PurchaseOption.model_validate({**OPEN, "enabled": enabled, "checkout": {"at": URL}})

    assert (False, None, {"checkout": {"at": "[link]"}}) == (option.enabled, option.url, option.model_extra)


def test_an_option_that_says_nothing():
    """An option that does not say whether it is enabled is not, and is passed on without saying so."""
    option = PurchaseOption.model_validate({"type": "topup"})

    assert not option.enabled
    assert {"type": "topup"} == option.model_dump(by_alias=True, exclude_unset=True)
    assert not PurchaseOption(type="topup", enabled=False, url=URL).url


def test_all_disabled():
    """What a failed call carried is closed altogether, whatever it said of itself."""
    links = PurchaseLinks.model_validate({"account_id": "a", "options": [{**OPEN, "checkout": URL}, CLOSED]})

    closed = links.all_disabled()

    assert ("a", ()) == (closed.account_id, closed.enabled)
    assert [(False, None)] * 2 == [(option.enabled, option.url) for option in closed.options]
    assert URL not in str(closed.wire_options())
    assert "100 credits" == closed.options[0].label


def test_no_repr_shows_a_url():
    """No repr shows a URL, in whichever field it came."""
    option = {**OPEN, "label": f"Buy at {URL}", "checkout": URL}
    links = PurchaseLinks.model_validate({"account_id": URL, "options": [option], "portal": URL})

    for shown in (repr(links), str(links), repr(links.options), f"{links.options[0]}"):
        assert "digistore24" not in shown
    assert "type='topup'" in repr(links)


def test_no_pickle_holds_a_url():
    """A pickle holds no URL; a copy in memory is the same as the original."""
    links = PurchaseLinks.model_validate({"options": [{**OPEN, "label": URL, "checkout": URL}], "portal": URL})

    pickled = pickle.dumps(links)
    thawed = pickle.loads(pickled)

    assert b"digistore24" not in pickled
    assert (None, "[link]", True) == (thawed.options[0].url, thawed.options[0].label, thawed.options[0].enabled)
    assert "4711" == thawed.options[0].to_product_id
    assert links == copy.deepcopy(links)
    assert URL == copy.deepcopy(links).options[0].url


def test_not_an_object():
    """An option that is no object is refused, not guessed."""
    with pytest.raises(ValueError, match="options"):
        PurchaseLinks.model_validate({"options": ["topup"]})
