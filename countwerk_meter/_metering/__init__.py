"""What a Meter is made of: scopes, reservations, amounts, and the settlement behind them."""
