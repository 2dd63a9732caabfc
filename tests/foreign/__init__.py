"""Applications that others wrote, in environments of their own, with Holdfast's wheel beside them."""
