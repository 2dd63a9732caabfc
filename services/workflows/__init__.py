"""Where modules found the public names before they had a package of their own."""
