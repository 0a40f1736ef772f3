"""The science: from clicks to a classifier that looks where it was told. Pure torch, no network, no database."""
