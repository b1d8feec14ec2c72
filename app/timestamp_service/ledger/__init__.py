"""A client that keeps a ledger of what was acknowledged, and judges later whether all of it is there."""
