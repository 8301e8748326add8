"""The stores without their database."""
