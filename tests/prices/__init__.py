"""The programs that make the price data that comes with the gateway, and its facts."""
