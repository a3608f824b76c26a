"""A shop of three services that authsvc guards: a web gateway, orders and payments."""
