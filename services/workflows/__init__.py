"""The former location of the public names, before they had a package of their own."""
